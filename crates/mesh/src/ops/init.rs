//! The files a new user needs, and the ones a user of the bash skill brings along.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::device::DeviceKey;
use crate::error::MeshError;
use crate::git_exposure::{git_exposure, work_tree};
use crate::identity::{self, Identity};
use crate::merged::Merged;
use crate::mesh::Mesh;
use crate::private_file::{create, folder_of, wide_folder};
use crate::registry::{Agent, Registry, RegistryError, registry_schema};

mod import;

use import::Theirs;

/// How the registry refers to its JSON Schema, which stands beside it.
const SCHEMA: &str = "registry.schema.json";

/// What to make, and from what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitOptions {
    /// The folder of a bash skill to take registry and tokens over from.
    pub from: Option<PathBuf>,
    /// Whether the skill's entries win over ours.
    pub overwrite: bool,
}

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitReport {
    /// Each file, and whether it is new.
    pub files: Vec<InitFile>,
    /// Our device id.
    pub device_id: String,
    /// Who we are, if any source says.
    pub identity: Option<Identity>,
    /// Whether we are in the registry.
    pub in_registry: bool,
    /// Where to say who we are, while nobody does.
    #[serde(skip)]
    pub searched: Vec<String>,
    /// What was taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// What is worth a look.
    pub warnings: Vec<Warning>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitFile {
    /// What it is: `registry`, `schema`, `gitignore`, `tokens` or `device-key`.
    pub file: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What became of it.
    pub status: FileStatus,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileStatus {
    /// It is new.
    Created,
    /// It was there, and is as it was.
    Kept,
    /// It was there, and got entries of the skill, or ourselves.
    Updated,
}

/// What was taken over from the bash skill, by e-mail prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The teammates.
    pub agents: Merged,
    /// The tokens.
    pub tokens: Merged,
}

/// Something that works, but not as well as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What.
    pub message: String,
    /// The command that helps, ready for a shell.
    pub fix: Option<String>,
}

/// Makes what is missing: a registry with ourselves in it, an empty tokens file, the device key. What is there already is
/// kept; only entries of the skill in `options.from` are added to it, and ourselves to a registry of nobody. Everything is read and checked before anything is
/// written.
///
/// # Errors
/// When a file of ours or of the skill is malformed or refused, or one cannot be written.
pub fn init(mesh: &Mesh, options: &InitOptions) -> Result<InitReport, MeshError> {
    let theirs = match &options.from {
        Some(folder) => Theirs::load(folder, mesh.config())?,
        None => Theirs::default(),
    };
    let (registry, agents, is_joined) = registry(mesh, &theirs, options.overwrite)?;
    mesh.token_store().all()?;
    let new_key = DeviceKey::load(&mesh.device_key_path())?.is_none();

    let mut files = write_registry(mesh, &registry, agents.changes() || is_joined)?;
    files.extend(write_gitignore(&mesh.config().tokens)?);
    let (tokens_file, tokens) = write_tokens(mesh, &theirs, options.overwrite)?;
    files.push(tokens_file);
    let device_id = mesh.device()?.id().to_owned();
    files.push(file("device-key", mesh.device_key_path(), new_key));
    let mut warnings = theirs.warnings();
    warnings.extend(exposures(mesh));
    let imported = options.from.is_some().then_some(Imported { agents, tokens });
    let in_registry = registry.agents.iter().any(|agent| mesh.is_me(agent));
    let identity = mesh.identity()?.cloned();
    let searched = identity::searched(&mesh.config().identity);
    Ok(InitReport { files, device_id, identity, in_registry, searched, imported, warnings })
}

/// Our registry as it shall be, what of the skill's is in it, and whether we were put into it. A list that somebody made is
/// his: we are put only into one that is new, or lists nobody, as that of the skill does at first.
fn registry(mesh: &Mesh, theirs: &Theirs, overwrite: bool) -> Result<(Registry, Merged, bool), MeshError> {
    let schema = Some(format!("./{SCHEMA}"));
    let mut ours = match Registry::load(&mesh.config().registry) {
        Ok(ours) => ours,
        Err(RegistryError::Missing { .. }) => Registry { schema, ..Registry::default() },
        Err(error) => return Err(error.into()),
    };
    let is_new = ours.agents.is_empty();
    let merged = match &theirs.registry {
        Some(theirs) => import::merge(&mut ours, theirs, overwrite),
        None => Merged::default(),
    };
    let me = mesh.identity()?.filter(|_| is_new && !ours.agents.iter().any(|agent| mesh.is_me(agent)));
    ours.agents.splice(0..0, me.map(|me| starter_entry(&me.email_prefix)));
    Ok((ours, merged, me.is_some()))
}

/// Ourselves, with the address still to be filled in. No made-up teammates: a broadcast would try them.
pub(super) fn starter_entry(email_prefix: &str) -> Agent {
    let mut letters = email_prefix.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let name: String = first.chain(letters).collect();
    Agent { ip: Some(String::new()), ..Agent::new(name, email_prefix) }
}

fn write_registry(mesh: &Mesh, registry: &Registry, is_changed: bool) -> Result<Vec<InitFile>, MeshError> {
    let path = &mesh.config().registry;
    if path.exists() {
        if is_changed {
            registry.save(path)?;
        }
        let status = if is_changed { FileStatus::Updated } else { FileStatus::Kept };
        return Ok(vec![InitFile { file: "registry", path: path.clone(), status }]);
    }
    let created = create(path, &registry.to_json(path)?)?;
    let schema = path.with_file_name(SCHEMA);
    let schema_created = create(&schema, format!("{:#}\n", registry_schema()).as_bytes())?;
    Ok(vec![file("registry", path.clone(), created), file("schema", schema, schema_created)])
}

/// Keeps secrets out of git where the tokens file lies in a work tree, or in a skill's folder, which soon will.
fn write_gitignore(tokens: &Path) -> Result<Option<InitFile>, MeshError> {
    let folder = folder_of(tokens);
    let in_skill = [Some(folder), folder.parent()].into_iter().flatten().any(|f| f.join("SKILL.md").exists());
    let (Some(name), true) = (tokens.file_name(), in_skill || work_tree(tokens).is_some()) else {
        return Ok(None);
    };
    let path = folder.join(".gitignore");
    let lines = format!("{}\n*.pem\ndevice-tokens.json\n", name.to_string_lossy());
    let created = create(&path, lines.as_bytes())?;
    Ok(Some(file("gitignore", path, created)))
}

fn write_tokens(mesh: &Mesh, theirs: &Theirs, overwrite: bool) -> Result<(InitFile, Merged), MeshError> {
    let store = mesh.token_store();
    let created = create(store.path(), b"{\n  \"tokens\": {}\n}\n")?;
    let merged = store.merge(&theirs.tokens, overwrite)?;
    let mut file = file("tokens", store.path().to_owned(), created);
    if !created && merged.changes() {
        file.status = FileStatus::Updated;
    }
    Ok((file, merged))
}

fn file(file: &'static str, path: PathBuf, created: bool) -> InitFile {
    InitFile { file, path, status: if created { FileStatus::Created } else { FileStatus::Kept } }
}

fn exposures(mesh: &Mesh) -> Vec<Warning> {
    let files =
        [mesh.config().tokens.clone(), mesh.device_key_path(), mesh.device_token_store().path().into()];
    let in_git = files.iter().filter_map(|file| git_exposure(file)).map(|exposure| Warning {
        message: format!("git would publish {}", exposure.path.display()),
        fix: Some(exposure.fix),
    });
    // The device key and the device tokens share a folder.
    let wide = files.iter().take(2).filter_map(|file| wide_folder(file)).map(|wide| Warning {
        message: format!("{} has mode {:04o}, wider than 0700", wide.path.display(), wide.mode),
        fix: Some(wide.fix),
    });
    in_git.chain(wide).collect()
}

#[cfg(test)]
mod tests;
