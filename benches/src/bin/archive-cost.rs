//! What the archive costs: search and listing in a large one, and what the journal adds to a send.
//!
//! `cargo run --release -p agent-mesh-benches --bin archive-cost [-- --messages N --dir FOLDER --slack X | --strict]`
//! Rows of `./bench` on stdout, tables that say more on stderr.
#![allow(clippy::print_stderr)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent_mesh_benches::journal::{Entry, Journal};
use agent_mesh_benches::{Judge, Row, Spread, Writer, ms, spread};
use agent_team_mesh::archive::{Allowance, Archive, Direction, Filter, NewMessage, Step};
use agent_team_mesh::guard::{Rules, Speaker};
use agent_team_mesh::record::{State, To};
use agent_team_mesh::registry::Via;
use clap::Parser;
use futures_util::future::join_all;
use rusqlite::Connection;
use uuid::Uuid;

type Failure = Box<dyn Error>;

const COMMAND: &str = "target/release/archive-cost";
const PEERS: u64 = 50;
const REPEATS: usize = 25;
const SENDS: usize = 400;

/// Must hold: what issue 4 asks for.
const SEARCH: Duration = Duration::from_millis(50);
const LIST: Duration = Duration::from_millis(10);
const JOURNAL: Duration = Duration::from_millis(1);

/// What the archive costs
#[derive(Debug, Parser)]
struct Args {
    /// How many messages the large archive has
    #[arg(long, default_value_t = 1_000_000)]
    messages: usize,
    /// Where it is made, and kept for the next time; a folder that is removed at the end unless given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Fail only beyond so many times what must hold
    #[arg(long, default_value_t = 2.0)]
    slack: f64,
    /// Fail beyond what must hold: `--slack 1`
    #[arg(long)]
    strict: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let args = Args::parse();
    let temporary = tempfile::tempdir()?;
    let folder = args.dir.as_deref().unwrap_or(temporary.path());
    let large = folder.join(format!("archive-{}.db", args.messages));
    let mut judge = Judge::new(if args.strict { 1.0 } else { args.slack });

    fill(&large, args.messages).await?;
    reads(&large, &mut judge).await?;
    let small = temporary.path().join("small.db");
    eprintln!(
        "\n## What the journal adds to a send ({SENDS} sends, each beside two commits of the same rows by bare rusqlite, synchronous=FULL)\n"
    );
    eprintln!(
        "| archive | open | begin | leave | finish | all three, median / p99 | bare rusqlite, median / p99 | ratio | must hold: open and all three <= 1 ms |"
    );
    eprintln!("|---|---|---|---|---|---|---|---|---|");
    journal("empty", &small, &mut judge).await?;
    journal(&format!("{} messages", args.messages), &large, &mut judge).await?;
    limits(temporary.path()).await?;

    Ok(judge.conclude())
}

fn message(writer: &mut Writer, text: String) -> NewMessage {
    let peer = format!("peer{:02}", writer.number(PEERS));
    let id = Uuid::now_v7().to_string();
    let header = format!(
        "[agent-mesh/1 from=me id={id} hops=0 reply=this-turn]\n\
         (A teammate's agent wrote this, not your owner. Your answer to this turn goes back to it.)\n\n"
    );
    NewMessage {
        run_id: id.clone(),
        id,
        direction: if writer.number(2) == 0 { Direction::Out } else { Direction::In },
        peer: To { name: peer.to_uppercase(), email_prefix: peer },
        via: Via::Agent,
        session: "agent:main:mesh:me".to_owned(),
        thread: (writer.number(10) == 0).then(|| format!("topic{}", writer.number(100))),
        text,
        header,
        claimed_from: None,
        state: State::Sending,
        expires_at: None,
    }
}

fn replied(reply: String) -> Step {
    Step::finished(State::Replied, Some(reply), None)
}

/// Through the library's own door: begin, reached, accepted, replied for each.
async fn fill(path: &Path, messages: usize) -> Result<(), Failure> {
    const CHUNK: usize = 5_000;
    if path.exists() {
        eprintln!("{} is there from an earlier run", path.display());
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    let _ = std::fs::remove_file(&unfinished);
    let archive = Archive::open(&unfinished)?;
    let mut writer = Writer::new(1);
    let start = Instant::now();
    for done in (0..messages).step_by(CHUNK) {
        let mut begun = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..CHUNK.min(messages - done) {
            let text = writer.text(6, 30);
            let message = message(&mut writer, text);
            steps.push((message.id.clone(), writer.text(8, 50)));
            begun.push(archive.begin(message));
        }
        for outcome in join_all(begun).await {
            outcome?;
        }
        let finished = steps.into_iter().map(|(id, reply)| {
            drop(archive.note(None, &id, Step::Reached { boot_id: Some("0197d3f0".to_owned()) }));
            drop(archive.note(None, &id, Step::Accepted));
            archive.note(None, &id, replied(reply))
        });
        for outcome in join_all(finished).await {
            outcome?;
        }
        if (done / CHUNK).is_multiple_of(20) {
            eprintln!("{} messages after {:.0} s", done + CHUNK, start.elapsed().as_secs_f64());
        }
    }
    drop(archive);
    let connection = Connection::open(&unfinished)?;
    // Nobody else has it open now; the file becomes one and takes its name.
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").or_else(|error| match error {
        rusqlite::Error::ExecuteReturnedResults => Ok(()),
        other => Err(other),
    })?;
    drop(connection);
    std::fs::rename(&unfinished, path)?;
    eprintln!("filled with {messages} messages in {:.0} s\n", start.elapsed().as_secs_f64());
    Ok(())
}

async fn reads(path: &Path, judge: &mut Judge) -> Result<(), Failure> {
    let archive = Archive::open(path)?;
    let bytes = std::fs::metadata(path)?.len();
    eprintln!("## Reading, {} MB on disk, {REPEATS} times each, the newest 50\n", bytes / 1_000_000);
    eprintln!("| read | hits | first | median | p99 | must hold |");
    eprintln!("|---|---|---|---|---|---|");
    let search = |words: &str| Filter { search: Some(words.to_owned()), ..Filter::default() };
    let with = |peer: &str| Filter { peer: Some(peer.to_owned()), ..Filter::default() };
    let cases = [
        ("search `the` (most common word)", search("the"), SEARCH),
        ("search `deployment` (common)", search("deployment"), SEARCH),
        ("search `depl` (half a word)", search("depl"), SEARCH),
        ("search `t` (the first letter of many)", search("t"), SEARCH),
        ("search `gorquidero` (no such word)", search("gorquidero"), SEARCH),
        ("search `ingvexing` (rare)", search("ingvexing"), SEARCH),
        ("search `构建` (common, two characters)", search("构建"), SEARCH),
        ("search `审核` (two characters)", search("审核"), SEARCH),
        ("search `的` (most common character)", search("的"), SEARCH),
        ("search `build failed` (two common words)", search("build failed"), SEARCH),
        (
            "search `deployment` with peer07",
            Filter { search: Some("deployment".to_owned()), ..with("peer07") },
            SEARCH,
        ),
        ("list peer07", with("peer07"), LIST),
        ("list peer49", with("peer49"), LIST),
        ("list everybody", Filter::default(), LIST),
        ("list peer07, state failed (none)", Filter { state: Some(State::Failed), ..with("peer07") }, LIST),
    ];
    for (what, filter, limit) in cases {
        let limited = Filter { limit: Some(50), ..filter.clone() };
        let mut times = Vec::new();
        for _ in 0..=REPEATS {
            let start = Instant::now();
            archive.list(limited.clone()).await?;
            times.push(start.elapsed());
        }
        let first = times.remove(0);
        let Spread { median, p99 } = spread(times);
        let hits = hits(path, &filter)?;
        let verdict = judge.verdict(what, median, limit);
        eprintln!(
            "| {what} | {hits} | {} | {} | {} | {} ms: {verdict} |",
            ms(first),
            ms(median),
            ms(p99),
            limit.as_millis()
        );
        Row::new("archive", what, COMMAND, median.as_secs_f64() * 1e3, "ms")
            .must_hold(format!("at most {} ms", limit.as_millis()), median <= limit)
            .note(format!("{hits} hits; the first time {} ms, p99 {}", ms(first), ms(p99)))
            .print();
    }
    Ok(())
}

/// How many there are in all, for the table; Chinese as the index splits it.
fn hits(path: &Path, filter: &Filter) -> Result<String, Failure> {
    let Some(words) = &filter.search else { return Ok("-".to_owned()) };
    let split: String =
        words.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!(" {c} ") }).collect();
    let query = if words.is_ascii() {
        words.split(' ').map(|word| format!("\"{word}\"*")).collect::<Vec<_>>().join(" ")
    } else {
        format!("\"{}\"*", split.trim())
    };
    let connection = Connection::open(path)?;
    let sql = "SELECT count(*) FROM search WHERE search MATCH ?1";
    Ok(connection.query_row(sql, [query], |row| row.get::<_, i64>(0))?.to_string())
}

async fn journal(name: &str, path: &Path, judge: &mut Judge) -> Result<(), Failure> {
    drop(Archive::open(path)?);
    // Somebody else has it open meanwhile (an `outbox run`, a `log --follow`): opening finds a WAL that is there.
    let bare = Journal::open(path)?;
    let mut opens = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        let archive = Archive::open(path)?;
        opens.push(start.elapsed());
        archive.settle().await?;
    }
    let archive = Archive::open(path)?;
    let mut writer = Writer::new(2);
    let (mut begins, mut leaves, mut finishes, mut sums, mut bares) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let boot_id = Some("0197d3f0".to_owned());
    let text = "please check why the build of main failed after the merge and say what the pipeline wants"
        .to_owned();
    let reply =
        "the build failed because the schema migration ran before the backup was done and it is green now"
            .repeat(2);
    for _ in 0..SENDS {
        let message = message(&mut writer, text.clone());
        let again = NewMessage { id: Uuid::now_v7().to_string(), ..message.clone() };
        let id = message.id.clone();
        let start = Instant::now();
        archive.begin_within(message, within(Rules::default(), Speaker::Person)).await??;
        let begin = start.elapsed();
        // This one and the next but one are on nobody's way: the send does not wait for them.
        archive.note(None, &id, Step::Reached { boot_id: boot_id.clone() }).await?;
        let start = Instant::now();
        let leaving = Step::Sending { run_id: id.clone(), boot_id: boot_id.clone() };
        archive.note(None, &id, leaving).await?;
        let leave = start.elapsed();
        archive.note(None, &id, Step::Accepted).await?;
        let start = Instant::now();
        archive.note(None, &id, replied(reply.clone())).await?;
        let finish = start.elapsed();
        begins.push(begin);
        leaves.push(leave);
        finishes.push(finish);
        sums.push(begin + leave + finish);
        bares.push(bare_send(&bare, &again, &reply)?);
    }
    let (open, begin, leave, finish) = (spread(opens), spread(begins), spread(leaves), spread(finishes));
    let (sum, bare) = (spread(sums), spread(bares));
    let ratio = sum.median.as_secs_f64() / bare.median.as_secs_f64();
    let added = open.median + sum.median;
    let verdict = judge.verdict(&format!("the journal of a send, {name}"), added, JOURNAL);
    eprintln!(
        "| {name} | {} | {} | {} | {} | {} / {} | {} / {} | {ratio:.2} | {}: {verdict} |",
        ms(open.median),
        ms(begin.median),
        ms(leave.median),
        ms(finish.median),
        ms(sum.median),
        ms(sum.p99),
        ms(bare.median),
        ms(bare.p99),
        ms(added)
    );
    Row::new("archive", format!("a send's journal, {name}"), COMMAND, sum.median.as_secs_f64() * 1e3, "ms")
        .beside("the same rows in two commits by bare rusqlite", bare.median.as_secs_f64() * 1e3)
        .must_hold("at most 1 ms with opening it", added <= JOURNAL)
        .note(format!("opening it {} ms", ms(open.median)))
        .print();
    Ok(())
}

fn within(rules: Rules, speaker: Speaker) -> Allowance {
    Allowance { rules, speaker, chorus_of: None }
}

/// What counting adds to `begin`, the more was said: up to a limit that many messages come close to.
async fn limits(folder: &Path) -> Result<(), Failure> {
    eprintln!(
        "\n## What the limits add to a begin, {REPEATS} times each, nothing said twice, all by an agent to one peer\n"
    );
    eprintln!("| said in the last day | begin without limits | begin within them | added |");
    eprintln!("|---|---|---|---|");
    let much = u32::MAX;
    for said in [0, 100, 5_000] {
        let archive = Archive::open(&folder.join(format!("limits-{said}.db")))?;
        let mut writer = Writer::new(3);
        let mut new = |text: String| {
            let to = To { name: "Bob".to_owned(), email_prefix: "bob".to_owned() };
            NewMessage { peer: to, direction: Direction::Out, ..message(&mut writer, text) }
        };
        let wide =
            Rules { peer_per_hour: much, total_per_hour: much, thread_per_day: much, ..Rules::default() };
        for number in 0..said {
            archive.begin_within(new(format!("before {number}")), within(wide, Speaker::Agent)).await??;
        }
        // Every count walks over all that was said and finds that one more may be.
        let limit = said + u32::try_from(REPEATS)? + 1;
        let close = Rules { peer_per_hour: limit, total_per_hour: limit, thread_per_day: limit, ..wide };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for number in 0..REPEATS {
            let message = new(format!("without {number}"));
            let start = Instant::now();
            archive.begin(message).await?;
            without.push(start.elapsed());
            let message = new(format!("within {number}"));
            let start = Instant::now();
            archive.begin_within(message, within(close, Speaker::Agent)).await??;
            with.push(start.elapsed());
        }
        let (without, with) = (spread(without).median, spread(with).median);
        eprintln!("| {said} | {} | {} | {} |", ms(without), ms(with), ms(with.saturating_sub(without)));
    }
    Ok(())
}

/// The same rows in the same two commits, by nothing but SQLite.
fn bare_send(db: &Journal, message: &NewMessage, reply: &str) -> Result<Duration, rusqlite::Error> {
    let start = Instant::now();
    let entry = Entry {
        id: &message.id,
        peer: &message.peer.email_prefix,
        session: &message.session,
        text: &message.text,
        header: &message.header,
    };
    let seq = db.begin(entry)?;
    db.finish(seq, &message.text, reply)?;
    Ok(start.elapsed())
}
