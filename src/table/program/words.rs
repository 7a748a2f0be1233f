//! Command lines, split into words as a shell does (POSIX, Shell Command Language, 2.2), but without a shell: nothing is
//! expanded, and no character has a meaning but quotes, backslashes and white space.

/// The words of a command line. `None` if a quote is not closed, or a backslash has nothing behind it.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut chars) = (Vec::new(), None::<String>, line.chars().peekable());
    while let Some(c) = chars.next() {
        if matches!(c, ' ' | '\t' | '\n') {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match c {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    // Before other characters, it is one itself.
                    '\\' => match chars.next_if(|c| matches!(c, '"' | '\\' | '$' | '`' | '\n')) {
                        Some('\n') => {}
                        Some(c) => word.push(c),
                        None => word.push('\\'),
                    },
                    c => word.push(c),
                }
            },
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.push(c),
            },
            c => word.push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        for line in [
            "",
            "  ",
            "a",
            " a  b\tc\n",
            "python3 /etc/podop/maps.py --dsn 'host=/run dbname=mail'",
            "a '' b",
            "\"\"",
            "'a b'c\"d e\"f",
            "a\\ b \\'c \\\"d",
            "'a\\b'",
            "\"a\\\"b\\\\c\\$d\\`e\"",
            "\"a\\nb\"",
            "\"it's\" 'say \"x\"'",
            "ä 'ö ü'",
            "\"a\\\nb\" c\\\nd",
        ] {
            let script = format!("for word in {line}\ndo printf '<%s>' \"$word\"; done");
            // The shell itself, which would take a line break for the end of the words.
            let shell = std::process::Command::new("sh")
                .args(["-c", if line.trim().is_empty() { ":" } else { &script }.trim_end()])
                .output()
                .unwrap();
            let words: String = split(line).unwrap().iter().map(|word| format!("<{word}>")).collect();
            if !line.ends_with('\n') {
                assert_eq!(words, String::from_utf8(shell.stdout).unwrap(), "{line}");
            }
        }
        assert_eq!(split("a $HOME * ~ | ; > b").unwrap(), ["a", "$HOME", "*", "~", "|", ";", ">", "b"]);
    }

    #[test]
    fn an_open_quote_is_no_line() {
        for line in ["'a", "\"a", "a\\", "\"a\\\"", "'"] {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
