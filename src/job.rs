//! A request in flight, from being read until its reply is queued.

use crate::arena::Key;
use crate::query::{Answer, Commit, Failure, Iterate, Order, Outcome, Path, Write};
use crate::table::Written;
use crate::value::{self, JsonError, Members, Value};
use std::collections::VecDeque;
use std::time::Instant;

/// Lookups of one iteration that are on their way or wait for their turn.
const AHEAD: usize = 16;

/// Why a list that passes as JSON fails: it has half a surrogate pair.
const UNREADABLE: &str = "the list is not valid Unicode";

/// What an iteration that is sorted by value may hold of the rows.
const MAX_SORTED: usize = 4 * 1024 * 1024; // bytes

/// One request of one client.
#[derive(Debug)]
pub struct Job {
    pub client: Key,
    /// Where in the client's line of replies its reply belongs.
    pub place: u64,
    /// The number of its table.
    pub table: usize,
    pub deadline: Instant,
    pub work: Work,
}

impl Job {
    pub fn is_commit(&self) -> bool {
        matches!(self.work, Work::Commit(_))
    }

    /// True if it goes on though no client waits for it.
    pub fn outlives_its_client(&self) -> bool {
        matches!(self.work, Work::Commit(_) | Work::Fetch(_))
    }
}

/// What there is to do.
#[derive(Debug)]
pub enum Work {
    /// One question, one answer.
    Get,
    Iterate(Box<Iteration>),
    Commit(Box<Commitment>),
    /// A lookup that waits for the [`Work::Fetch`] of its key.
    Wait {
        fetch: Key,
        since: Instant,
    },
    /// One question for all who ask it; it belongs to no client.
    Fetch(Box<Fetch>),
}

/// A key on its way to the cache.
#[derive(Debug)]
pub struct Fetch {
    pub key: Vec<u8>,
    /// The jobs that wait for it.
    pub waiters: Vec<Key>,
    /// False once the key was written: then the answer is good for those who wait already, and for nobody else.
    pub current: bool,
}

/// First the names, then one question each, unless the values came with the names.
#[derive(Debug)]
pub struct Iteration {
    query: Iterate,
    /// Which of the paths is at work.
    path: usize,
    rows: u64,
    stage: Stage,
}

/// Start ── list is asked for ──▶ Listing ── it came ──▶ Rows ── all sent ──▶ Start of the next path
#[derive(Debug)]
enum Stage {
    Start,
    Listing,
    Rows(Rows),
}

#[derive(Debug)]
struct Rows {
    /// The names, or names and values, as the backend gave them.
    list: List,
    members: Members,
    /// Rows whose values were asked for, in the order of the names.
    window: VecDeque<Slot>,
    /// The number of the first question in the window.
    first: u32,
    /// Rows to be sorted by a value that is not known yet.
    gathered: Option<(Vec<(String, String)>, usize)>,
}

#[derive(Debug)]
enum List {
    Names(String),
    NamesAndValues(String),
}

#[derive(Debug)]
struct Slot {
    name: String,
    /// Unknown, or gone meanwhile, or there.
    value: Option<Option<String>>,
}

/// What an iteration needs next.
#[derive(Debug)]
pub enum Step {
    /// The names below this path.
    List(Path),
    /// The value of this key, told under this number.
    Get(u32, Vec<u8>),
    /// This row is to be sent.
    Row {
        name: Vec<u8>,
        value: String,
    },
    /// Answers, or room for more rows.
    Wait,
    End,
    Fail(&'static str),
}

impl Iteration {
    pub fn new(query: Iterate) -> Self {
        Self { query, path: 0, rows: 0, stage: Stage::Start }
    }

    /// What to do next. Rows come only while there is `room` for them.
    pub fn next(&mut self, room: bool) -> Step {
        if self.query.max_rows > 0 && self.rows >= self.query.max_rows {
            return Step::End;
        }
        loop {
            let Some(path) = self.query.paths.get(self.path) else { return Step::End };
            match &mut self.stage {
                Stage::Start => {
                    self.stage = Stage::Listing;
                    return if self.query.exact { Step::Get(0, path.key(b"")) } else { Step::List(path.clone()) };
                }
                Stage::Listing => return Step::Wait,
                Stage::Rows(rows) => match rows.next(path, self.query.no_values, room) {
                    Step::End => {
                        self.stage = Stage::Start;
                        self.path += 1;
                    }
                    step => {
                        self.rows += u64::from(matches!(step, Step::Row { .. }));
                        return step;
                    }
                },
            }
        }
    }

    /// True if the answer that is due is a list of names.
    pub fn is_listing(&self) -> bool {
        matches!(self.stage, Stage::Listing) && !self.query.exact
    }

    /// Takes the answer to [`Step::List`], or to [`Step::Get`] under its number.
    pub fn answered(&mut self, part: u32, answer: Answer<'_>) -> Result<(), Failure> {
        let value = match answer {
            Answer::Found(value) => Some(value),
            Answer::Miss => None,
            Answer::Failed(failure) => return Err(failure),
        };
        match &mut self.stage {
            Stage::Start => {}
            Stage::Listing => self.stage = Stage::Rows(Rows::new(&self.query, value)?),
            Stage::Rows(rows) => rows.answered(part, value),
        }
        Ok(())
    }
}

impl Rows {
    fn new(query: &Iterate, value: Option<Value<'_>>) -> Result<Self, Failure> {
        let mut rows = Self {
            list: List::Names("[]".to_owned()),
            members: Members::new(),
            window: VecDeque::new(),
            first: 1, // 0 was the list
            gathered: None,
        };
        if query.exact {
            let value = value.and_then(|value| value.for_dovecot().map(|text| text.into_owned()));
            rows.window.push_back(Slot { name: String::new(), value: Some(value) });
            return Ok(rows);
        }
        rows.list = match value {
            None => return Ok(rows),
            Some(Value::Array(raw)) => List::Names(raw.into_owned()),
            Some(Value::Object(raw)) => List::NamesAndValues(raw.into_owned()),
            Some(_) => return Err(Failure::temporary(format_args!("the list is neither an array nor an object"))),
        };
        match query.order {
            Order::AsListed => {}
            Order::ByName => rows.list.sort(|name, _| name.to_owned()),
            Order::ByValue => match rows.list {
                List::Names(_) if query.no_values => {}
                List::Names(_) => rows.gathered = Some((Vec::new(), 0)),
                List::NamesAndValues(_) => rows.list.sort(|_, value| text(value).ok().flatten().unwrap_or_default()),
            },
        }
        Ok(rows)
    }

    fn next(&mut self, path: &Path, no_values: bool, room: bool) -> Step {
        loop {
            if let Some(slot) = self.window.front().filter(|slot| slot.value.is_some()) {
                if !room && self.gathered.is_none() {
                    return Step::Wait;
                }
                let (name, value) = (slot.name.clone(), slot.value.clone().flatten());
                self.window.pop_front();
                self.first += 1;
                match (value, &mut self.gathered) {
                    (None, _) => {} // it has gone meanwhile
                    (Some(value), None) => return row(path, &name, value, no_values),
                    (Some(value), Some((rows, held))) => {
                        *held += name.len() + value.len();
                        if *held > MAX_SORTED {
                            return Step::Fail("too much to sort by value");
                        }
                        rows.push((name, value));
                    }
                }
                continue;
            }
            if self.window.len() == AHEAD {
                return Step::Wait;
            }
            match self.take(path, no_values, room) {
                Some(step) => return step,
                None if !self.window.is_empty() => return Step::Wait,
                None => match self.gathered.take() {
                    None => return Step::End,
                    Some((rows, _)) => self.sorted(rows),
                },
            }
        }
    }

    /// What the next name of the list needs; `None` after the last.
    fn take(&mut self, path: &Path, no_values: bool, room: bool) -> Option<Step> {
        let asks = matches!(self.list, List::Names(_)) && !no_values;
        if !asks && !room {
            let mut peek = self.members;
            return peek.next_item(self.list.raw()).map(|_| Step::Wait);
        }
        match &self.list {
            List::Names(raw) => {
                let Some(name) = name(self.members.next_item(raw)?) else {
                    return Some(Step::Fail("the list holds something that is no name"));
                };
                if no_values {
                    return Some(row(path, &name, String::new(), true));
                }
                let key = path.key(name.as_bytes());
                self.window.push_back(Slot { name, value: None });
                Some(Step::Get(self.first + self.window.len() as u32 - 1, key))
            }
            List::NamesAndValues(raw) => loop {
                let Ok(next) = self.members.next(raw) else { return Some(Step::Fail(UNREADABLE)) };
                let (name, value) = next?;
                if no_values {
                    return Some(row(path, &name, String::new(), true));
                }
                match text(value) {
                    Ok(Some(value)) => return Some(row(path, &name, value, false)),
                    Ok(None) => {} // null is no value
                    Err(JsonError) => return Some(Step::Fail(UNREADABLE)),
                }
            },
        }
    }

    fn answered(&mut self, part: u32, value: Option<Value<'_>>) {
        let at = part.wrapping_sub(self.first) as usize;
        if let Some(slot) = self.window.get_mut(at) {
            slot.value = Some(value.and_then(|value| value.for_dovecot().map(|text| text.into_owned())));
        }
    }

    /// Goes on with rows whose values are known now, sorted by them.
    fn sorted(&mut self, mut rows: Vec<(String, String)>) {
        rows.sort_by(|one, other| one.1.cmp(&other.1));
        let quoted = |text: &str| String::from_utf8_lossy(&value::quote(text.as_bytes())).into_owned();
        let members: Vec<String> =
            rows.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
        self.list = List::NamesAndValues(format!("{{{}}}", members.join(",")));
        self.members = Members::new();
    }
}

impl List {
    fn raw(&self) -> &str {
        match self {
            List::Names(raw) | List::NamesAndValues(raw) => raw,
        }
    }

    /// Sorts by what `by` makes of raw name and raw value.
    fn sort<K: Ord>(&mut self, by: impl Fn(&str, &str) -> K) {
        let (pairs, open, close) = match self {
            List::Names(_) => (false, '[', ']'),
            List::NamesAndValues(_) => (true, '{', '}'),
        };
        let (mut members, mut items, raw) = (Members::new(), Vec::new(), self.raw());
        while let Some(name) = members.next_item(raw) {
            let value = if pairs { members.next_item(raw).unwrap_or_default() } else { "" };
            items.push((by(&text(name).ok().flatten().unwrap_or_default(), value), name, value));
        }
        items.sort_by(|one, other| one.0.cmp(&other.0));
        let colon = if pairs { ":" } else { "" };
        let texts: Vec<String> = items.iter().map(|(_, name, value)| format!("{name}{colon}{value}")).collect();
        let sorted = format!("{open}{}{close}", texts.join(","));
        match self {
            List::Names(raw) | List::NamesAndValues(raw) => *raw = sorted,
        }
    }
}

fn row(path: &Path, name: &str, value: String, no_values: bool) -> Step {
    Step::Row { name: path.row(name.as_bytes()), value: if no_values { String::new() } else { value } }
}

/// A name in a list: a string or a number.
fn name(raw: &str) -> Option<String> {
    if raw.starts_with(['[', '{']) { None } else { text(raw).ok()? }
}

/// What a raw JSON value is for Dovecot; `None` for null.
fn text(raw: &str) -> Result<Option<String>, JsonError> {
    Ok(value::member(raw)?.for_dovecot().map(|text| text.into_owned()))
}

/// The writes of a transaction, one after another until the first failure.
#[derive(Debug)]
pub struct Commitment {
    commit: Commit,
    /// How many writes were acknowledged.
    applied: usize,
}

impl Commitment {
    pub fn new(commit: Commit) -> Self {
        Self { commit, applied: 0 }
    }

    pub fn id(&self) -> u32 {
        self.commit.id
    }

    /// The write to carry out now; `None` when all are done.
    pub fn next(&self) -> Option<&Write> {
        self.commit.writes.get(self.applied)
    }

    /// Takes what became of [`Commitment::next`]: the outcome of the commit, if this is its end.
    /// A failure that is not `certain` may have been carried out all the same.
    pub fn answered(&mut self, result: Result<Written, Failure>, certain: bool) -> Option<Outcome> {
        let nothing_yet = self.applied == 0;
        match result {
            Ok(Written::Done) => {
                self.applied += 1;
                self.next().is_none().then_some(Outcome::Done)
            }
            Ok(Written::NotFound) if nothing_yet => Some(Outcome::NotFound),
            Ok(Written::NotFound) => {
                Some(Outcome::Uncertain(Failure::temporary(format_args!("a value to increment is missing"))))
            }
            Err(failure) if certain && nothing_yet => Some(Outcome::Failed(failure)),
            Err(failure) => Some(Outcome::Uncertain(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iteration(order: Order, no_values: bool, max_rows: u64) -> Iteration {
        let paths = vec![Path { namespace: "shared/", path: b"p/".to_vec(), user: None }];
        Iteration::new(Iterate { paths, order, no_values, exact: false, max_rows })
    }

    /// Lists `list`, answers lookups by `value`, and returns the rows; asks at most `AHEAD` at once.
    fn run(mut iteration: Iteration, list: &str, value: impl Fn(&str) -> Option<&'static str>) -> Vec<String> {
        let (mut rows, mut asked) = (Vec::new(), VecDeque::new());
        loop {
            match iteration.next(true) {
                Step::List(_) => iteration.answered(0, Answer::Found(Value::parse(list.as_bytes()).unwrap())).unwrap(),
                Step::Get(part, key) => {
                    asked.push_back((part, String::from_utf8(key).unwrap()));
                    assert!(asked.len() <= AHEAD);
                }
                Step::Row { name, value } => rows.push(format!("{}={value}", String::from_utf8(name).unwrap())),
                Step::Wait => {
                    let (part, key) = asked.pop_back().expect("waits for nothing"); // the last first
                    let answer = value(&key).map_or(Answer::Miss, |text| Answer::Found(Value::Text(text.into())));
                    iteration.answered(part, answer).unwrap();
                }
                Step::End => return rows,
                Step::Fail(why) => return vec![why.to_owned()],
            }
        }
    }

    #[test]
    fn rows_come_in_the_order_of_the_list_whatever_answer_comes_first() {
        let names: Vec<String> = (0..100).map(|n| format!("\"{n}\"")).collect();
        let list = format!("[{}]", names.join(","));
        let rows = run(iteration(Order::AsListed, false, 0), &list, |key| (key != "p/7").then_some("v"));
        let expected: Vec<String> = (0..100).filter(|n| *n != 7).map(|n| format!("shared/p/{n}=v")).collect();
        assert_eq!(rows, expected);
        assert_eq!(run(iteration(Order::AsListed, false, 3), &list, |_| Some("v")).len(), 3);
    }

    #[test]
    fn an_object_holds_the_values_and_null_is_no_row() {
        let list = r#"{"b": 2, "a": "x", "n": null, "c": {"y": [1, 2]}}"#;
        let rows = |order, no_values| run(iteration(order, no_values, 0), list, |_| unreachable!());
        assert_eq!(rows(Order::AsListed, false), ["shared/p/b=2", "shared/p/a=x", "shared/p/c={\"y\":[1,2]}"]);
        assert_eq!(rows(Order::ByName, false), ["shared/p/a=x", "shared/p/b=2", "shared/p/c={\"y\":[1,2]}"]);
        assert_eq!(rows(Order::ByValue, false), ["shared/p/b=2", "shared/p/a=x", "shared/p/c={\"y\":[1,2]}"]);
        assert_eq!(rows(Order::AsListed, true).len(), 4);
    }

    #[test]
    fn names_are_sorted_by_values_that_have_to_be_asked_for() {
        let value = |key: &str| match key {
            "p/a" => Some("3"),
            "p/b" => Some("1"),
            "p/c" => Some("2"),
            _ => None,
        };
        let rows = run(iteration(Order::ByValue, false, 0), r#"["a", "b", "c", "gone"]"#, value);
        assert_eq!(rows, ["shared/p/b=1", "shared/p/c=2", "shared/p/a=3"]);
        let names = run(iteration(Order::ByName, true, 0), r#"["b", "a", 3]"#, value);
        assert_eq!(names, ["shared/p/3=", "shared/p/a=", "shared/p/b="]);
    }

    #[test]
    fn a_list_of_something_else_is_a_failure() {
        for list in ["[null]", "[[]]", "[{\"a\": 1}]"] {
            let got = run(iteration(Order::AsListed, false, 0), list, |_| None);
            assert_eq!(got, ["the list holds something that is no name"], "{list}");
        }
        let mut one = iteration(Order::AsListed, false, 0);
        one.next(true);
        assert!(one.answered(0, Answer::Found(Value::Text("x".into()))).is_err());
    }

    #[test]
    fn without_room_nothing_is_sent_and_little_is_asked() {
        let mut one = iteration(Order::AsListed, false, 0);
        one.next(true);
        let list = format!("[{}1]", "1,".repeat(99));
        one.answered(0, Answer::Found(Value::parse(list.as_bytes()).unwrap())).unwrap();
        let mut asked = 0;
        while let Step::Get(part, _) = one.next(false) {
            one.answered(part, Answer::Found(Value::Text("v".into()))).unwrap();
            asked += 1;
        }
        assert_eq!(asked, 1, "an answer that cannot be sent holds back the next question");
        assert!(matches!(one.next(true), Step::Row { .. }));
    }

    #[test]
    fn the_outcome_of_a_commit_is_honest() {
        let failure = || Failure::temporary(format_args!("x"));
        let after = |applied, result, certain| {
            let writes = (0..3).map(|_| Write { key: vec![], change: Change::Unset }).collect();
            let mut commitment = Commitment { commit: Commit { id: 1, writes }, applied };
            match commitment.answered(result, certain) {
                None => "-",
                Some(Outcome::Done) => "O",
                Some(Outcome::NotFound) => "N",
                Some(Outcome::Failed(_)) => "F",
                Some(Outcome::Uncertain(_)) => "W",
            }
        };
        use crate::query::Change;
        assert_eq!(after(0, Ok(Written::Done), true), "-");
        assert_eq!(after(2, Ok(Written::Done), true), "O");
        assert_eq!(after(0, Ok(Written::NotFound), true), "N");
        assert_eq!(after(1, Ok(Written::NotFound), true), "W");
        assert_eq!(after(0, Err(failure()), true), "F");
        assert_eq!(after(0, Err(failure()), false), "W");
        assert_eq!(after(2, Err(failure()), true), "W");
    }
}
