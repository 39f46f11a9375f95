//! A table of teammates: what a sheet exports as CSV.

use std::collections::BTreeMap;

use csv::{ReaderBuilder, StringRecord};

use super::Broken;
use crate::registry::Agent;

/// The columns that are read, as they are compared: lower-case letters only. Other columns stay where they are.
const COLUMNS: [&str; 11] =
    ["name", "email", "emailprefix", "ip", "hostname", "port", "url", "nickname", "note", "tags", "deviceid"];
const FINGERPRINT: &str = "tlsfingerprint";

/// Where each known column stands.
struct Header(BTreeMap<&'static str, usize>);

/// The rows of a table with a header. Rows without any content, which sheets export below the last one, do not count.
pub(super) fn read(text: &str) -> Result<Vec<Agent>, Broken> {
    // The parser takes the end of the text for the end of a cell, so a table cut off inside quotes would pass.
    if text.bytes().filter(|byte| *byte == b'"').count() % 2 != 0 {
        return Err(Broken::OpenQuote);
    }
    let mut reader = ReaderBuilder::new().delimiter(delimiter(text)).from_reader(text.as_bytes());
    let header = Header::read(reader.headers().map_err(|error| malformed(&error))?)?;
    let mut agents = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| malformed(&error))?;
        if row.iter().any(|cell| !cell.trim().is_empty()) {
            agents.push(header.agent(&row)?);
        }
    }
    Ok(agents)
}

/// Excel writes semicolons where the comma is the decimal mark; a copied range has tabs.
fn delimiter(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    let count = |c: u8| first.bytes().filter(|byte| *byte == c).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|c| count(*c)).unwrap_or(b',')
}

impl Header {
    fn read(row: &StringRecord) -> Result<Self, Broken> {
        let mut columns = BTreeMap::new();
        for (index, cell) in row.iter().enumerate() {
            let letters: String = cell.chars().filter(char::is_ascii_alphabetic).collect();
            let letters = letters.to_ascii_lowercase();
            let Some(known) = COLUMNS.into_iter().chain([FINGERPRINT]).find(|known| *known == letters) else {
                continue;
            };
            if columns.insert(known, index).is_some() {
                return Err(Broken::Csv { line: 1, what: format!("there are two columns {known}") });
            }
        }
        let header = Self(columns);
        let has = |column| header.0.contains_key(column);
        if has("name") && (has("email") || has("emailprefix")) { Ok(header) } else { Err(Broken::NoList) }
    }

    fn cell(&self, row: &StringRecord, column: &str) -> Option<String> {
        let cell = row.get(*self.0.get(column)?)?.trim();
        (!cell.is_empty()).then(|| cell.to_owned())
    }

    fn agent(&self, row: &StringRecord) -> Result<Agent, Broken> {
        let cell = |column| self.cell(row, column);
        let from_email = || cell("email").and_then(|email| Some(email.split('@').next()?.to_owned()));
        let tags = cell("tags").unwrap_or_default();
        let broken = |what: &str| Broken::Csv {
            line: row.position().map_or(0, csv::Position::line),
            what: what.to_owned(),
        };
        let port =
            cell("port").map(|port| port.parse().map_err(|_| broken("port is no number from 1 to 65535")));
        Ok(Agent {
            ip: cell("ip"),
            hostname: cell("hostname"),
            port: port.transpose()?,
            url: cell("url"),
            nickname: cell("nickname"),
            note: cell("note"),
            tags: read_tags(&tags).ok_or_else(|| broken("tags are not key=value, parted by semicolons"))?,
            device_id: cell("deviceid"),
            tls_fingerprint: cell(FINGERPRINT),
            ..Agent::new(
                cell("name").unwrap_or_default(),
                cell("emailprefix").or_else(from_email).unwrap_or_default(),
            )
        })
    }
}

fn read_tags(text: &str) -> Option<BTreeMap<String, String>> {
    let pairs = text.split(';').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.trim().to_owned(), value.trim().to_owned())).filter(|(key, _)| !key.is_empty())
        })
        .collect()
}

fn malformed(error: &csv::Error) -> Broken {
    let line = error.position().map_or(0, csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} cells, the header {expected_len}")
        }
        _ => error.to_string(),
    };
    Broken::Csv { line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sheets_and_spreadsheets_export_is_read() {
        let bob = Agent {
            ip: Some("10.0.0.2".into()),
            nickname: Some("bo, \"b\"".into()),
            note: Some("two\nlines".into()),
            tags: [("team".into(), "infra".into()), ("site".into(), "b".into())].into(),
            ..Agent::new("Bob", "bob")
        };
        let row = "Bob,bob@example.com,10.0.0.2,\"bo, \"\"b\"\"\",\"two\nlines\",team=infra; site=b";
        for (story, text) in [
            ("plain", format!("name,email,ip,nickname,note,tags\n{row}\n")),
            (
                "no line break at the end, as Google exports it",
                format!("name,email,ip,nickname,note,tags\n{row}"),
            ),
            (
                "CRLF and empty rows below",
                format!("name,email,ip,nickname,note,tags\r\n{row}\r\n,,,,,\r\n , ,,,,\r\n"),
            ),
            ("spelt by people", format!("Name,E-Mail,IP,Nickname,Note,Tags\n{row}\n")),
            ("columns of no concern", format!("name,email,ip,nickname,note,tags,Phone\n{row},555\n")),
        ] {
            assert_eq!(read(&text).unwrap(), std::slice::from_ref(&bob), "{story}");
        }
    }

    #[test]
    fn semicolons_tabs_and_prefixes_are_understood() {
        let expected = [Agent { ip: Some("fd00::1".into()), ..Agent::new("Bob", "bob") }];
        assert_eq!(read("name;emailPrefix;ip\nBob;bob;fd00::1\n").unwrap(), expected);
        assert_eq!(read("name\temail_prefix\tip\nBob\tbob\tfd00::1\n").unwrap(), expected);
        let both = "name,email,emailPrefix\nBob,robert@x.org,bob\nCid,cid@x.org,\n";
        let prefixes: Vec<_> = read(both).unwrap().into_iter().map(|agent| agent.email_prefix).collect();
        assert_eq!(prefixes, ["bob", "cid"]);
    }

    #[test]
    fn a_table_that_is_cut_off_or_no_list_is_an_error() {
        for (story, text, expected) in [
            (
                "cut off in a row",
                "name,email,ip\nBob,bob@x.org,1.1.1.1\nCid,cid",
                "line 3: it has 2 cells, the header 3",
            ),
            ("cut off in quotes", "name,email,note\nBob,bob@x.org,\"half a", "a quote is not closed"),
            ("a page", "<html>\n", "it is neither JSON nor a CSV table"),
            ("no e-mail", "name,ip\nBob,1.1.1.1\n", "it is neither JSON nor a CSV table"),
            ("one column twice", "name,email,E-Mail\nBob,a,b\n", "line 1: there are two columns email"),
            ("bad tags", "name,email,tags\nBob,bob@x.org,infra\n", "line 2: tags are not key=value"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{story}: {error}");
        }
    }
}
