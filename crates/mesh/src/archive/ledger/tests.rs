use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::archive::tests::{self, archive};

fn message(peer: &str, session: &str, text: &str) -> NewMessage {
    let id = uuid::Uuid::now_v7().to_string();
    NewMessage { session: session.into(), ..tests::message(&id, peer, text) }
}

fn agent(rules: Rules) -> Allowance {
    Allowance { rules, speaker: Speaker::Agent, chorus_of: None }
}

/// What stops a message, by the name of its setting.
async fn say(archive: &Archive, message: NewMessage, allowance: Allowance) -> Option<&'static str> {
    match archive.begin_within(message, allowance).await.unwrap() {
        Ok(()) => None,
        Err(Refusal::Limit { measure, .. }) => Some(measure.setting()),
        Err(Refusal::Repeated { .. }) => Some("repeated"),
        Err(other) => panic!("{other}"),
    }
}

/// Ctrl-C while another process writes.
#[tokio::test]
async fn who_stops_waiting_for_a_message_to_be_written_down_has_let_nothing_leave() {
    let (_folder, archive) = archive();
    archive.settle().await.unwrap();
    let rules = Rules { thread_per_day: 1, ..Rules::default() };
    let given_up = async |text: &str| {
        let message = message("bob", "a", text);
        let id = message.id.clone();
        let somebody_else = Connection::open(archive.path()).unwrap();
        somebody_else.execute_batch("BEGIN IMMEDIATE").unwrap();
        let leaving = archive.begin_leaving(message, agent(rules), Leaving { boot_id: None });
        assert!(leaving.now_or_never().is_none(), "somebody else writes");
        somebody_else.execute_batch("ROLLBACK").unwrap();
        archive.settle().await.unwrap();
        archive.find(&id).await.unwrap().map(|stored| stored.record.state)
    };
    assert_eq!(given_up("one").await, Some(State::Cancelled));
    assert_eq!(say(&archive, message("bob", "a", "two"), agent(rules)).await, None, "it does not count");
    assert_eq!(given_up("three").await, None, "what may not be said leaves nothing behind");
}

#[tokio::test]
async fn each_limit_stops_what_it_counts_and_nothing_else() {
    let rules = Rules { peer_per_hour: 3, total_per_hour: 5, thread_per_day: 2, ..Rules::default() };
    let (_folder, archive) = archive();
    let mut texts = (0..).map(|n| n.to_string());
    let mut said = Vec::new();
    for (peer, session) in [
        ("bob", "a"),
        ("bob", "a"),
        ("bob", "a"),
        ("bob", "b"),
        ("bob", "c"),
        ("carol", "a"),
        ("dave", "a"),
        ("erin", "a"),
    ] {
        said.push(say(&archive, message(peer, session, &texts.next().unwrap()), agent(rules)).await);
    }
    let (thread, peer, total) = (Some("thread-per-day"), Some("peer-per-hour"), Some("total-per-hour"));
    assert_eq!(said, [None, None, thread, None, peer, None, None, total]);
    assert_eq!(archive.list(crate::archive::Filter::default()).await.unwrap().len(), 5);
    let person = Allowance { speaker: Speaker::Person, ..agent(rules) };
    for (said, stopped) in [("one", None), ("two", None), ("three", thread)] {
        assert_eq!(
            say(&archive, message("bob", "a", said), person.clone()).await,
            stopped,
            "people are counted apart"
        );
    }
    let tally = archive.tally(Speaker::Agent).await.unwrap();
    assert_eq!(tally.total_last_hour, 5);
    assert_eq!(
        tally.peers[0],
        Said { peer: "bob".into(), last_hour: 3, thread_last_day: 2, unreachable_last_hour: 0 }
    );
    archive.reset_limits(Some("Bob")).await.unwrap();
    assert_eq!(say(&archive, message("bob", "a", "x"), agent(rules)).await, total, "bob's reset is bob's");
    archive.reset_limits(None).await.unwrap();
    assert_eq!(say(&archive, message("bob", "a", "x"), agent(rules)).await, None);
    assert_eq!(archive.resets().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_agent_repeats_itself_only_where_it_was_not_heard() {
    let (_folder, archive) = archive();
    let allowance = || agent(Rules::default());
    let first = message("bob", "a", "hello");
    let id = first.id.clone();
    assert_eq!(say(&archive, first, allowance()).await, None);
    assert_eq!(say(&archive, message("bob", "b", "hello"), allowance()).await, Some("repeated"));
    assert_eq!(say(&archive, message("carol", "a", "hello"), allowance()).await, None);
    let person = Allowance { speaker: Speaker::Person, ..allowance() };
    assert_eq!(say(&archive, message("bob", "a", "hello"), person.clone()).await, None);
    let rules = Rules { repeat_window: Duration::from_secs(60), ..Rules::default() };
    let told = Allowance { rules, ..person };
    assert_eq!(
        say(&archive, message("bob", "a", "hello"), told).await,
        Some("repeated"),
        "who sets it means it"
    );
    let unreachable = Step::finished(State::Unreachable, None, None);
    archive.note(None, &id, unreachable).await.unwrap();
    assert_eq!(say(&archive, message("bob", "a", "hello"), allowance()).await, None);
}

#[tokio::test]
async fn a_broadcast_counts_once_over_all_and_once_for_each() {
    let rules = Rules { peer_per_hour: 1, total_per_hour: 2, ..Rules::default() };
    let (_folder, archive) = archive();
    let first = message("p0", "a", "all");
    let chorus = Allowance { chorus_of: Some(first.id.clone()), ..agent(rules) };
    assert_eq!(say(&archive, first, agent(rules)).await, None);
    for n in 1..50 {
        assert_eq!(say(&archive, message(&format!("p{n}"), "a", "all"), chorus.clone()).await, None);
    }
    assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 1);
    assert_eq!(say(&archive, message("p7", "a", "all of you"), chorus.clone()).await, Some("peer-per-hour"));
    assert_eq!(say(&archive, message("q1", "a", "one"), agent(rules)).await, None);
    let refused = message("q2", "a", "two");
    let chorus = Allowance { chorus_of: Some(refused.id.clone()), ..agent(rules) };
    assert_eq!(say(&archive, refused, agent(rules)).await, Some("total-per-hour"));
    assert_eq!(
        say(&archive, message("q3", "a", "two"), chorus).await,
        Some("total-per-hour"),
        "the rest of a broadcast does not slip past the limit that stopped its first message"
    );
}

/// The limits of a night are worth nothing if two processes can each write the last message.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_stay_under_the_limit_together() {
    let rules = Rules { peer_per_hour: 10, ..Rules::default() };
    let (_folder, archive) = archive();
    let others: Vec<Archive> = (0..4).map(|_| Archive::open(archive.path()).unwrap()).collect();
    let asked = (0..100).map(|n| {
        let archive = &others[n % others.len()];
        async move { say(archive, message("bob", "a", &n.to_string()), agent(rules)).await }
    });
    let said = futures_util::future::join_all(asked).await;
    assert_eq!(said.iter().filter(|refused| refused.is_none()).count(), 10);
}

#[tokio::test]
async fn only_what_left_or_may_have_left_counts() {
    let rules = Rules { peer_per_hour: 2, total_per_hour: 2, thread_per_day: 2, ..Rules::default() };
    let (_folder, archive) = archive();
    for state in
        [State::Skipped, State::Unreachable, State::Failed, State::Expired, State::Cancelled, State::Unknown]
    {
        let next = message("bob", "a", state.name());
        let id = next.id.clone();
        assert_eq!(say(&archive, next, agent(rules)).await, None, "{}", state.name());
        archive.note(None, &id, Step::finished(state, None, None)).await.unwrap();
    }
    let left = message("bob", "a", "it left, and their agent failed");
    let id = left.id.clone();
    assert_eq!(say(&archive, left, agent(rules)).await, None);
    archive.note(None, &id, Step::Sending { run_id: id.clone(), boot_id: None }).await.unwrap();
    let failed = Step::finished(State::Failed, None, None);
    archive.note(None, &id, failed).await.unwrap();
    assert_eq!(say(&archive, message("bob", "a", "x"), agent(rules)).await, Some("thread-per-day"));
    let tally = archive.tally(Speaker::Agent).await.unwrap();
    assert_eq!((tally.total_last_hour, tally.peers[0].last_hour), (2, 2));
    archive.prune(Timestamp::MAX).await.unwrap();
    assert_eq!(archive.tally(Speaker::Agent).await.unwrap(), tally, "what is forgotten counts as before");
}

#[tokio::test]
async fn a_broadcast_whose_first_message_did_not_leave_counts_by_another() {
    let rules = Rules { total_per_hour: 1, ..Rules::default() };
    let (_folder, archive) = archive();
    let (first, second) = (message("bob", "a", "all"), message("carol", "a", "all"));
    let (skipped, left) = (first.id.clone(), second.id.clone());
    assert_eq!(say(&archive, first, agent(rules)).await, None);
    assert_eq!(
        say(&archive, second, Allowance { chorus_of: Some(skipped.clone()), ..agent(rules) }).await,
        None
    );
    let step = Step::finished(State::Skipped, None, None);
    archive.note(None, &skipped, step).await.unwrap();
    assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 0);
    archive.count_once(&skipped, [skipped.clone(), left.clone()].into()).await.unwrap();
    assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 1);
    assert_eq!(say(&archive, message("dave", "a", "x"), agent(rules)).await, Some("total-per-hour"));
}

/// It reached the gateway, which started nothing: its broadcast was not counted at all.
#[tokio::test]
async fn a_broadcast_whose_first_message_was_turned_away_counts_by_another() {
    let (_folder, archive) = archive();
    let (first, second) = (message("bob", "a", "all"), message("carol", "a", "all"));
    let (refused, left) = (first.id.clone(), second.id.clone());
    let chorus = Allowance { chorus_of: Some(refused.clone()), ..agent(Rules::default()) };
    assert_eq!(say(&archive, first, agent(Rules::default())).await, None);
    assert_eq!(say(&archive, second, chorus).await, None);
    for step in [
        Step::Reached { boot_id: None },
        Step::Sending { run_id: refused.clone(), boot_id: None },
        Step::TurnedAway("busy".into()),
        Step::finished(State::Failed, None, None),
    ] {
        archive.note(None, &refused, step).await.unwrap();
    }
    archive.count_once(&refused, [refused.clone(), left].into()).await.unwrap();
    assert_eq!(archive.tally(Speaker::Agent).await.unwrap().total_last_hour, 1);
}

#[tokio::test]
async fn a_forgotten_message_still_counts() {
    let rules = Rules { peer_per_hour: 1, ..Rules::default() };
    let (_folder, archive) = archive();
    let first = message("bob", "a", "hello");
    let id = first.id.clone();
    assert_eq!(say(&archive, first, agent(rules)).await, None);
    let replied = Step::finished(State::Replied, None, None);
    archive.note(None, &id, replied).await.unwrap();
    assert_eq!(archive.prune(Timestamp::MAX).await.unwrap(), 1);
    assert_eq!(say(&archive, message("bob", "a", "more"), agent(rules)).await, Some("peer-per-hour"));
}

/// What was said before, by a person to one peer in one session.
fn fill(db: &Connection, lines: u32) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
        INSERT INTO said (at, speaker, peer, session, words, message, chorus)
            SELECT ?1, 'person', 'bob', 'a', i, 'message ' || i, 0 FROM n";
    db.execute(sql, params![now(), lines]).unwrap();
}

/// The steps of SQLite's machine that one more message takes.
fn steps_of_one_more(before: u32) -> u32 {
    let (_folder, archive) = archive();
    let mut db = Connection::open(archive.path()).unwrap();
    fill(&db, before);
    let taken = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&taken);
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    db.progress_handler(1, Some(count)).unwrap();
    let person = Allowance { speaker: Speaker::Person, ..agent(Rules::default()) };
    let message = message("bob", "a", "one more");
    enter(&db, &message, &person, || insert(&db, &message)).unwrap().unwrap();
    taken.load(Ordering::Relaxed)
}

#[test]
fn one_more_message_takes_no_longer_for_those_before_it() {
    let (few, many) = (steps_of_one_more(10), steps_of_one_more(5_000));
    assert!(many < few * 11 / 10, "{few} steps after ten, {many} after 5,000");
}

#[tokio::test]
async fn a_limit_is_found_among_lines_that_it_does_not_count() {
    let rules = Rules { peer_per_hour: 2, ..Rules::default() };
    let (_folder, archive) = archive();
    archive
        .write(|db| {
            fill(db, 50);
            Ok(())
        })
        .await
        .unwrap();
    for (text, stopped) in [("one", None), ("two", None), ("three", Some("peer-per-hour"))] {
        assert_eq!(say(&archive, message("bob", "b", text), agent(rules)).await, stopped);
        assert_eq!(say(&archive, message("carol", "b", text), agent(rules)).await, stopped);
    }
    archive.reset_limits(Some("bob")).await.unwrap();
    archive.write(|db| db.execute("DELETE FROM said WHERE speaker = 'person'", []).map(drop)).await.unwrap();
    for (text, stopped) in [("four", None), ("five", None), ("six", Some("peer-per-hour"))] {
        assert_eq!(say(&archive, message("bob", "b", text), agent(rules)).await, stopped);
    }
}

#[tokio::test]
async fn a_message_that_leaves_at_once_is_written_with_its_leaving() {
    let rules = Rules { peer_per_hour: 1, ..Rules::default() };
    let (_folder, archive) = archive();
    let boot = || Leaving { boot_id: Some("boot".into()) };
    let first = message("bob", "a", "one");
    let id = first.id.clone();
    archive.begin_leaving(first, agent(rules), boot()).await.unwrap().unwrap();
    let kept = archive.find(&id).await.unwrap().unwrap();
    assert_eq!((kept.record.state, kept.boot_id.as_deref()), (State::Sending, Some("boot")));
    assert!(kept.sent_at.is_some() && kept.record.receipt.reached_at.is_some());
    let steps: Vec<_> = archive.events(&id).await.unwrap().into_iter().map(|event| event.step).collect();
    assert_eq!(steps, ["sending", "reached"], "as when they are written one by one");
    let second = message("bob", "a", "two");
    let refused = archive.begin_leaving(second, agent(rules), boot()).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Limit { .. })), "{refused:?}");
    assert_eq!(archive.list(crate::archive::Filter::default()).await.unwrap().len(), 1);
}
