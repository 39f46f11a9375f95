//! Which messages, and in which order.

use std::cmp::Reverse;

use jiff::Timestamp;
use rusqlite::{Connection, params_from_iter, types::Value};

use super::row::{COLUMNS, stored};
use super::unfinished::UNFINISHED;
use super::{Archive, ArchiveError, Stored, schema, search};
use crate::record::State;

/// Which messages.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this peer.
    pub peer: Option<String>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// In this state.
    pub state: Option<State>,
    /// On this topic.
    pub thread: Option<String>,
    /// With these words in message or reply.
    pub search: Option<String>,
    /// Only those to which something happened after this event.
    pub changed_since: Option<i64>,
    /// At most so many, the newest.
    pub limit: Option<u32>,
}

impl Archive {
    /// The last event of all.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn last_event(&self) -> Result<i64, ArchiveError> {
        self.read(|db| db.query_row("SELECT coalesce(max(rowid), 0) FROM events", [], |row| row.get(0))).await
    }

    /// The messages that fit, newest last.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Stored>, ArchiveError> {
        self.read(move |db| {
            // First: one that ends meanwhile is found twice, not never.
            let fresh = not_indexed(db, &filter)?;
            let mut rows = newest(db, select(&filter, None))?;
            if !fresh.is_empty() {
                rows.extend(newest(db, select(&filter, Some(&fresh)))?);
                rows.sort_by_key(|row| Reverse(row.seq()));
                rows.dedup_by_key(|row| row.seq());
                rows.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
            }
            rows.reverse();
            Ok(rows)
        })
        .await
    }
}

fn newest(db: &Connection, (sql, values): (String, Vec<Value>)) -> Result<Vec<Stored>, rusqlite::Error> {
    db.prepare(&sql)?.query_map(params_from_iter(values), stored)?.collect()
}

/// The runs that have the words that are looked for, and are not over: the index may not know them yet.
fn not_indexed(db: &Connection, filter: &Filter) -> Result<Vec<i64>, rusqlite::Error> {
    let Some(words) = &filter.search else { return Ok(Vec::new()) };
    // An older file that cannot be written to was not migrated.
    if schema::version(db)? < schema::HAS_RUNS {
        return Ok(Vec::new());
    }
    let (wheres, values) = narrow(filter);
    let mut sql = format!("SELECT seq, text {UNFINISHED}");
    for clause in wheres {
        sql = sql + " AND " + &clause;
    }
    let mut texts = db.prepare(&sql)?;
    let texts = texts.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    search::fitting(texts, &search::query(words))
}

/// All that is asked for but the words.
fn narrow(filter: &Filter) -> (Vec<String>, Vec<Value>) {
    let mut wheres = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut add = |clause: &str, value: Value| {
        values.push(value);
        wheres.push(clause.replace('?', &format!("?{}", values.len())));
    };
    if let Some(peer) = &filter.peer {
        add("peer = ?", peer.to_lowercase().into());
    }
    if let Some(since) = filter.since {
        add("created_at >= ?", since.as_millisecond().into());
    }
    if let Some(state) = filter.state {
        add("state = ?", state.name().to_owned().into());
    }
    if let Some(thread) = &filter.thread {
        add("thread = ?", thread.clone().into());
    }
    if let Some(event) = filter.changed_since {
        add("seq IN (SELECT message FROM events WHERE rowid > ?)", event.into());
    }
    (wheres, values)
}

/// The query of a filter, newest first. The words may have been looked for already, in what is `fresh`.
fn select(filter: &Filter, fresh: Option<&[i64]>) -> (String, Vec<Value>) {
    let (mut wheres, mut values) = narrow(filter);
    // The index gives its hits newest first: where hardly anything else is asked for, the first few are enough. With a
    // filter that fits little, the same order would walk through all hits.
    let by_words = filter.since.is_none()
        && filter.state.is_none()
        && filter.thread.is_none()
        && filter.changed_since.is_none();
    let (mut from, mut order) = ("messages", "seq");
    if let Some(seqs) = fresh {
        let seqs: Vec<_> = seqs.iter().map(i64::to_string).collect();
        wheres.push(format!("seq IN ({})", seqs.join(", ")));
    } else if let Some(words) = &filter.search {
        values.push(search::query(words).into());
        let query = values.len();
        if by_words {
            (from, order) = ("search CROSS JOIN messages ON seq = search.rowid", "search.rowid");
            wheres.push(format!("search MATCH ?{query}"));
        } else {
            wheres.push(format!("seq IN (SELECT rowid FROM search WHERE search MATCH ?{query})"));
        }
    }
    let wheres = if wheres.is_empty() { "1".to_owned() } else { wheres.join(" AND ") };
    let limit = filter.limit.map_or(-1, i64::from);
    (format!("SELECT {COLUMNS} FROM {from} WHERE {wheres} ORDER BY {order} DESC LIMIT {limit}"), values)
}
