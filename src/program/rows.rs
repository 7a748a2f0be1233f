//! Lists that a program sends in several lines: they are put together as one JSON document.

/// Maximum size of a list in bytes that is not passed on in parts.
const MAX_LIST: usize = 4 << 20;

/// The rows of a list so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// `[` or `{`, as in the first line.
    kind: Option<u8>,
    /// There was a row.
    any: bool,
    /// What was not passed on.
    text: Vec<u8>,
}

impl Rows {
    /// Adds the array or object of a line, and returns what is to be passed on: nothing if that is not allowed.
    ///
    /// # Errors
    /// The lines do not make one list, or one that is too long.
    pub(super) fn push(&mut self, raw: &str, may_pass: bool) -> Result<Vec<u8>, &'static str> {
        let (Some(kind), Some(inner)) = (raw.bytes().next(), raw.get(1..raw.len() - 1)) else { return Ok(Vec::new()) };
        let inner = inner.trim_ascii().as_bytes();
        match self.kind {
            None => {
                self.kind = Some(kind);
                self.text.push(kind);
            }
            Some(other) if other != kind => return Err("answered with rows of two kinds"),
            Some(_) => {}
        }
        if !inner.is_empty() {
            self.text.extend_from_slice(if self.any { b"," } else { b"" });
            self.text.extend_from_slice(inner);
            self.any = true;
        }
        if may_pass {
            return Ok(std::mem::take(&mut self.text));
        }
        if self.text.len() > MAX_LIST { Err("answered with a list longer than 4 MiB") } else { Ok(Vec::new()) }
    }

    /// True if a line had rows, or could have had.
    pub(super) fn has_any(&self) -> bool {
        self.kind.is_some()
    }

    /// The rest of the document.
    pub(super) fn into_end(self) -> Vec<u8> {
        let mut text = self.text;
        match self.kind {
            None => text.extend_from_slice(b"[]"),
            Some(b'{') => text.push(b'}'),
            Some(_) => text.push(b']'),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_make_one_list() {
        for (lines, list) in [
            (&[][..], "[]"),
            (&["[]"], "[]"),
            (&["[]", "[ \"a\" ]", "[]", "[\"b\", \"c\"]"], "[\"a\",\"b\", \"c\"]"),
            (&["{}"], "{}"),
            (&["{\"a\": 1}", "{}", "{\"b\": [2]}"], "{\"a\": 1,\"b\": [2]}"),
        ] {
            for may_pass in [false, true] {
                let mut rows = Rows::default();
                let mut text: Vec<u8> = lines.iter().flat_map(|line| rows.push(line, may_pass).unwrap()).collect();
                assert!(may_pass || text.is_empty());
                text.extend(rows.into_end());
                assert_eq!(String::from_utf8(text).unwrap(), list);
            }
        }
    }

    #[test]
    fn a_list_has_one_kind_of_rows_and_a_bound() {
        let mut rows = Rows::default();
        rows.push("[1]", true).unwrap();
        assert!(rows.push("{}", true).is_err());
        let (mut rows, long) = (Rows::default(), format!("[\"{}\"]", "x".repeat(MAX_LIST / 2)));
        rows.push(&long, false).unwrap();
        assert!(rows.push(&long, false).is_err());
    }
}
