//! Iterations of dict clients: first the list of names, then one lookup for each value, unless the list has the values.

use crate::query::{Answer, Failure, Iterate, Path};
use crate::value::stream::{Item, MemberReader};
use crate::value::{self, JsonError, Members, Value};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Maximum number of values of one iteration that are being looked up or wait for an earlier row.
const AHEAD: usize = 16;

/// The reason for a list that is not one, or has half a surrogate pair.
const UNREADABLE: &str = "the list is not JSON, or not valid Unicode";

/// The reason for a value that Dovecot would cut.
const NUL: &str = "a value has a NUL, where mail servers cut it";

/// Number of bytes of a list above which no more are read while the client has no room.
// Below it a client that does not read its rows keeps no connection of the backend.
const MAX_BUFFERED: usize = 512 << 10;

/// Maximum number of bytes of a list that wait for the lookups of their values, or for a client.
// It is read as fast as it comes if its values are looked up, or while others wait for its connection: that may be the
// only one.
const MAX_UNUSED: usize = 16 << 20;

const LONG_LIST: &str = "the list of names is longer than 16 MiB";
const SLOW_CLIENT: &str = "the client did not read its rows, and others needed the connection";

/// An iteration: first the list of names, then one lookup for each value, unless the list has the values.
#[derive(Debug)]
pub struct Iteration {
    query: Iterate,
    /// The index of the current path.
    path: usize,
    rows: u64,
    stage: Stage,
}

/// Start ── List ──▶ Listing ── first part of the list ──▶ Rows ── all rows sent ──▶ Start of the next path
#[derive(Debug)]
enum Stage {
    Start,
    Listing,
    Rows(Rows),
    /// The backend sent something that cannot be used.
    Failed(&'static str),
}

#[derive(Debug, Default)]
struct Rows {
    /// The list as far as it has arrived.
    // Raw text: parsed into strings, a list would take several times its size.
    list: MemberReader,
    /// All of it has arrived.
    is_whole: bool,
    /// Rows whose values were requested, in the order of the names.
    window: VecDeque<Slot>,
    /// The number of the first lookup in the window.
    first: u32,
}

#[derive(Debug)]
struct Slot {
    name: Vec<u8>,
    /// `None` until the lookup is answered; `Some(None)` if the key is missing.
    value: Option<Option<Vec<u8>>>,
}

/// The next step of an iteration.
#[derive(Debug)]
pub enum Step {
    /// Request the list of this path.
    List(Path),
    /// Look up this key; the number identifies the answer.
    Get(u32, Vec<u8>),
    /// Send this row.
    Row {
        name: Vec<u8>,
        value: Vec<u8>,
    },
    /// Wait for answers, or for space for rows.
    Wait,
    End,
    Fail(&'static str),
}

impl Iteration {
    /// An iteration that has not begun.
    pub fn new(query: Iterate) -> Self {
        Self { query, path: 0, rows: 0, stage: Stage::Start }
    }

    /// Returns the next step. Rows are returned only if there is `room` for them.
    pub fn next(&mut self, room: bool) -> Step {
        if self.query.max_rows > 0 && self.rows >= self.query.max_rows {
            return Step::End;
        }
        loop {
            let Some(path) = self.query.paths.get(self.path) else { return Step::End };
            match &mut self.stage {
                Stage::Start => {
                    self.stage = Stage::Listing;
                    return if self.query.exact { Step::Get(0, exact_key(path)) } else { Step::List(path.clone()) };
                }
                Stage::Listing => return Step::Wait,
                Stage::Failed(why) => return Step::Fail(why),
                Stage::Rows(rows) => match rows.next(path, &self.query, room) {
                    Step::End => {
                        self.stage = Stage::Start;
                        self.path += 1;
                    }
                    step @ (Step::List(_) | Step::Get(..) | Step::Row { .. } | Step::Wait | Step::Fail(_)) => {
                        self.rows += u64::from(matches!(step, Step::Row { .. }));
                        return step;
                    }
                },
            }
        }
    }

    /// Whether the next answer is a list.
    pub fn is_listing(&self) -> bool {
        matches!(self.stage, Stage::Listing) && !self.query.exact
    }

    /// Whether the list may be given in parts, before it is known to be JSON as a whole.
    pub fn may_stream(&self) -> bool {
        !self.query.sorted && !self.query.exact
    }

    /// Whether it has enough of the list for now.
    pub fn is_full(&mut self) -> bool {
        let Stage::Rows(rows) = &mut self.stage else { return false };
        let may_be = !rows.is_whole && !rows.needs_lookups(&self.query) && rows.list.buffered() >= MAX_BUFFERED;
        // A member of which a part is missing is no row to wait with.
        may_be && rows.list.is_next() != Ok(Some(false))
    }

    /// Handles a part of a list.
    pub fn on_part(&mut self, bytes: &[u8]) {
        if matches!(self.stage, Stage::Listing) {
            self.stage = Stage::Rows(Rows::new());
        }
        if let Stage::Rows(rows) = &mut self.stage {
            rows.list.push(bytes);
            if rows.list.buffered() > MAX_UNUSED {
                let names = rows.needs_lookups(&self.query);
                self.stage = Stage::Failed(if names { LONG_LIST } else { SLOW_CLIENT });
            }
        }
    }

    /// Bytes of the list that have arrived and were not used.
    pub fn buffered(&self) -> usize {
        if let Stage::Rows(rows) = &self.stage { rows.list.buffered() } else { 0 }
    }

    /// Ends the iteration, as the lists of all take too much memory.
    pub fn fail_for_memory(&mut self) {
        self.stage = Stage::Failed("too many long lists wait for their clients");
    }

    /// The list that came in parts is at its end.
    pub fn on_end(&mut self) {
        if let Stage::Rows(rows) = &mut self.stage {
            rows.is_whole = true;
        }
    }

    /// Handles the answer to [`Step::List`], or to the [`Step::Get`] with this number.
    pub fn on_answer(&mut self, number: u32, answer: Answer<'_>) -> Result<(), Failure> {
        let value = match answer {
            Answer::Found(value) => Some(value),
            Answer::Miss => None,
            Answer::Failed(failure) => return Err(failure),
        };
        match &mut self.stage {
            Stage::Start => {}
            Stage::Listing => {
                self.stage = Rows::of_answer(&self.query, value).map_or_else(Stage::Failed, Stage::Rows);
            }
            Stage::Rows(rows) => {
                if let Err(why) = rows.set_value(number, value) {
                    self.stage = Stage::Failed(why);
                }
            }
            Stage::Failed(_) => {}
        }
        Ok(())
    }
}

impl Rows {
    fn new() -> Self {
        Self { first: 1, ..Self::default() } // the list was 0
    }

    fn of_answer(query: &Iterate, value: Option<Value<'_>>) -> Result<Self, &'static str> {
        let mut rows = Self { is_whole: true, ..Self::new() };
        if query.exact {
            let value = value.map_or(Ok(None), |value| owned(&value))?;
            rows.window.push_back(Slot { name: Vec::new(), value: Some(value) });
            rows.list.push(b"[]");
            return Ok(rows);
        }
        match value {
            // A miss: there is nothing below the path.
            None => rows.list.push(b"[]"),
            Some(Value::Array(raw) | Value::Object(raw)) if query.sorted => rows.list.push(sorted(&raw).as_bytes()),
            Some(Value::Array(raw) | Value::Object(raw)) => rows.list.push(raw.as_bytes()),
            Some(_) => return Err("the list is neither an array nor an object"),
        }
        Ok(rows)
    }

    /// Whether the value of each name has to be looked up.
    fn needs_lookups(&self, query: &Iterate) -> bool {
        !query.no_values && !self.list.is_object()
    }

    fn next(&mut self, path: &Path, query: &Iterate, room: bool) -> Step {
        loop {
            if self.window.front().is_some_and(|slot| slot.value.is_some()) {
                if !room {
                    return Step::Wait;
                }
                self.first += 1;
                if let Some(Slot { name, value: Some(Some(value)) }) = self.window.pop_front() {
                    return row(path, &name, if query.no_values { Vec::new() } else { value });
                }
                // Deleted since the list was made.
                continue;
            }
            // Values that cannot be sent stay in the window, which bounds the memory for a client that does not read.
            if self.window.len() == AHEAD {
                return Step::Wait;
            }
            match self.take(path, query, room) {
                Some(step) => return step,
                None if self.window.is_empty() => return Step::End,
                None => return Step::Wait,
            }
        }
    }

    /// The step for the next name of the list; `None` after the last.
    fn take(&mut self, path: &Path, query: &Iterate, room: bool) -> Option<Step> {
        loop {
            match self.list.is_next() {
                Err(JsonError) => return Some(Step::Fail(UNREADABLE)),
                // The end of the list needs no space, and must not wait for it.
                Ok(None) if self.is_whole => return None,
                Ok(None | Some(false)) if self.is_whole => return Some(Step::Fail(UNREADABLE)),
                Ok(None | Some(false)) => return Some(Step::Wait),
                Ok(Some(true)) if !room && !self.needs_lookups(query) => return Some(Step::Wait),
                Ok(Some(true)) => {}
            }
            match self.list.next_item() {
                Ok(Item::Element(raw)) => {
                    let Some(name) = name(raw) else {
                        return Some(Step::Fail("the list contains an element that is not a name"));
                    };
                    if !is_row(&name, query) {
                        continue;
                    }
                    if query.no_values {
                        return Some(row(path, &name, Vec::new()));
                    }
                    let key = path.key(&name);
                    self.window.push_back(Slot { name, value: None });
                    return Some(Step::Get(self.first + self.window.len() as u32 - 1, key));
                }
                Ok(Item::Member(name, value)) => {
                    if !is_row(&name, query) {
                        continue;
                    }
                    if query.no_values {
                        return Some(row(path, &name, Vec::new()));
                    }
                    match text(value) {
                        Ok(Some(value)) => return Some(row(path, &name, value)),
                        // `null` is a miss.
                        Ok(None) => {}
                        Err(reason) => return Some(Step::Fail(reason)),
                    }
                }
                Ok(Item::Incomplete | Item::End) | Err(JsonError) => return Some(Step::Fail(UNREADABLE)),
            }
        }
    }

    fn set_value(&mut self, number: u32, value: Option<Value<'_>>) -> Result<(), &'static str> {
        // The number of an earlier stage wraps to an index beyond the window.
        let at = number.wrapping_sub(self.first) as usize;
        if let Some(slot) = self.window.get_mut(at) {
            slot.value = Some(value.map_or(Ok(None), |value| owned(&value))?);
        }
        Ok(())
    }
}

/// The same array or object, sorted by its names.
fn sorted(raw: &str) -> String {
    let is_object = raw.starts_with('{');
    let (mut members, mut items) = (Members::new(), Vec::new());
    while let Some(name) = members.next_item(raw) {
        let value = if is_object { members.next_item(raw).unwrap_or_default() } else { "" };
        items.push((text(name).ok().flatten().unwrap_or_default(), name, value));
    }
    // By the decoded names: escapes would sort wrongly.
    items.sort_by(|one, other| one.0.cmp(&other.0));
    let (open, colon, close) = if is_object { ("{", ":", "}") } else { ("[", "", "]") };
    let texts: Vec<String> = items.iter().map(|(_, name, value)| format!("{name}{colon}{value}")).collect();
    format!("{open}{}{close}", texts.join(","))
}

/// What is below another name is not a row of this path (dict-file.c).
fn is_row(name: &[u8], query: &Iterate) -> bool {
    query.recurse || !name.contains(&b'/')
}

fn row(path: &Path, name: &[u8], value: Vec<u8>) -> Step {
    Step::Row { name: path.row(name), value }
}

/// A path means the same with and without a final slash, but a key does not.
fn exact_key(path: &Path) -> Vec<u8> {
    let key = path.path.strip_suffix(b"/").unwrap_or(&path.path);
    Path { path: key.to_vec(), ..path.clone() }.key(b"")
}

/// A name of a list, which is a string or a number.
fn name(raw: &str) -> Option<Vec<u8>> {
    if raw.starts_with(['[', '{']) { None } else { text(raw).ok()? }
}

/// The text of a raw JSON value for Dovecot; `None` for `null`.
fn text(raw: &str) -> Result<Option<Vec<u8>>, &'static str> {
    owned(&value::member(raw).map_err(|JsonError| UNREADABLE)?)
}

fn owned(value: &Value<'_>) -> Result<Option<Vec<u8>>, &'static str> {
    Ok(value.for_dovecot().map_err(|_| NUL)?.map(Cow::into_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iteration(sorted: bool, no_values: bool, max_rows: u64) -> Iteration {
        let paths = vec![Path { namespace: "shared/", path: b"p/".to_vec(), user: None }];
        Iteration::new(Iterate { paths, sorted, recurse: false, no_values, exact: false, max_rows })
    }

    /// Runs an iteration with `list` and the values of `value`, and returns the rows. At most `AHEAD` lookups are open
    /// at once.
    fn run(mut iteration: Iteration, list: &str, value: impl Fn(&str) -> Option<&'static str>) -> Vec<String> {
        let (mut rows, mut requested) = (Vec::new(), VecDeque::new());
        loop {
            match iteration.next(true) {
                Step::List(_) => iteration.on_answer(0, Answer::Found(Value::parse(list.as_bytes()).unwrap())).unwrap(),
                Step::Get(number, key) => {
                    requested.push_back((number, String::from_utf8(key).unwrap()));
                    assert!(requested.len() <= AHEAD);
                }
                Step::Row { name, value } => rows.push(String::from_utf8([name, value].join(&b'=')).unwrap()),
                Step::Wait => {
                    let (number, key) = requested.pop_back().expect("waits for nothing"); // the last first
                    let answer =
                        value(&key).map_or(Answer::Miss, |text| Answer::Found(Value::Text(text.as_bytes().into())));
                    iteration.on_answer(number, answer).unwrap();
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
        let rows = run(iteration(false, false, 0), &list, |key| (key != "p/7").then_some("v"));
        let expected: Vec<String> = (0..100).filter(|n| *n != 7).map(|n| format!("shared/p/{n}=v")).collect();
        assert_eq!(rows, expected);
        assert_eq!(run(iteration(false, false, 3), &list, |_| Some("v")).len(), 3);
    }

    #[test]
    fn an_object_holds_the_values_and_null_is_no_row() {
        let list = r#"{"b": 2, "a": "x", "n": null, "c": {"y": [1, 2]}}"#;
        let rows = |sorted, no_values| run(iteration(sorted, no_values, 0), list, |_| unreachable!());
        assert_eq!(rows(false, false), ["shared/p/b=2", "shared/p/a=x", "shared/p/c={\"y\":[1,2]}"]);
        assert_eq!(rows(true, false), ["shared/p/a=x", "shared/p/b=2", "shared/p/c={\"y\":[1,2]}"]);
        assert_eq!(rows(false, true).len(), 4);
    }

    #[test]
    fn names_are_sorted_as_text() {
        let names = run(iteration(true, true, 0), r#"["b", "a", 3]"#, |_| None);
        assert_eq!(names, ["shared/p/3=", "shared/p/a=", "shared/p/b="]);
    }

    #[test]
    fn what_is_below_another_name_is_a_row_only_if_it_is_wanted() {
        for (recurse, list, expected) in [
            (false, r#"["b", "b/c", "d/e/f", "g"]"#, &["shared/p/b=v", "shared/p/g=v"][..]),
            (false, r#"{"b": "v", "b/c": "v", "g": "v"}"#, &["shared/p/b=v", "shared/p/g=v"]),
            (true, r#"["b", "b/c"]"#, &["shared/p/b=v", "shared/p/b/c=v"]),
            (true, r#"{"b": "v", "b/c": "v"}"#, &["shared/p/b=v", "shared/p/b/c=v"]),
        ] {
            let mut one = iteration(false, false, 0);
            one.query.recurse = recurse;
            assert_eq!(run(one, list, |_| Some("v")), expected, "{list}");
        }
    }

    #[test]
    fn a_list_of_something_else_is_a_failure() {
        for list in ["[null]", "[[]]", "[{\"a\": 1}]"] {
            let got = run(iteration(false, false, 0), list, |_| None);
            assert_eq!(got, ["the list contains an element that is not a name"], "{list}");
        }
        let mut one = iteration(false, false, 0);
        one.next(true);
        one.on_answer(0, Answer::Found(Value::Text(b"x"[..].into()))).unwrap();
        assert!(matches!(one.next(true), Step::Fail("the list is neither an array nor an object")));
    }

    #[test]
    fn without_room_nothing_is_sent_and_little_is_requested() {
        let mut one = iteration(false, false, 0);
        one.next(true);
        let list = format!("[{}1]", "1,".repeat(99));
        one.on_answer(0, Answer::Found(Value::parse(list.as_bytes()).unwrap())).unwrap();
        let mut requested = 0;
        while let Step::Get(number, _) = one.next(false) {
            one.on_answer(number, Answer::Found(Value::Text(b"v"[..].into()))).unwrap();
            requested += 1;
        }
        assert_eq!(requested, 1, "an answer that cannot be sent holds back the next lookup");
        assert!(matches!(one.next(true), Step::Row { .. }));
    }
}
