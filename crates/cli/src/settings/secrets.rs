//! Secrets of the environment: the tokens of gateways on this host, and the keys of models.

use agent_team_mesh::client::Secret;

use super::layers::first;
use super::table::{self, About};
use super::{Setting, Settings};
use crate::error::CliError;

impl Settings {
    /// The token of our own gateway, from the environment.
    pub(super) fn own_token(&self) -> Result<Option<Secret>, CliError> {
        Ok(self.own_token_setting()?.value)
    }

    pub(super) fn own_token_setting(&self) -> Result<Setting<Option<Secret>>, CliError> {
        let own = self.secret(&table::GATEWAY_TOKEN)?;
        if own.value.is_some() { Ok(own) } else { self.serve_token_setting() }
    }

    /// `MESH_GATEWAY_TOKEN`: the token `serve` asks of its owner.
    pub fn serve_token(&self) -> Result<Option<Secret>, CliError> {
        Ok(self.serve_token_setting()?.value)
    }

    pub(super) fn serve_token_setting(&self) -> Result<Setting<Option<Secret>>, CliError> {
        self.secret(&table::SERVE_TOKEN)
    }

    /// `MESH_OPENAI_KEY`, else `OPENAI_API_KEY`: the key of the model behind `serve --agent openai`.
    pub fn openai_key(&self) -> Result<Option<Secret>, CliError> {
        let own = self.secret(&table::OPENAI_KEY)?;
        if own.value.is_some() { Ok(own.value) } else { Ok(self.secret(&table::OPENAI_API_KEY)?.value) }
    }

    pub(super) fn secret(&self, about: &About) -> Result<Setting<Option<Secret>>, CliError> {
        let token = self.env.text(about.env)?.map(|token| Some(Secret::new(token.trim().to_owned())));
        Ok(first(about, None, token, None, || None))
    }
}
