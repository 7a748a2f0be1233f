//! Dates in HTTP header fields (RFC 9110, section 5.6.7).

use super::decimal;

const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// The days of a week that begins with 1 January 1970.
const DAYS: [&[u8]; 7] = [b"thursday", b"friday", b"saturday", b"sunday", b"monday", b"tuesday", b"wednesday"];

/// Parses a date in one of the three formats and returns the seconds since 1970. `None` for anything else, for days
/// that do not exist, for a wrong day of the week, and for dates before 1970.
pub fn parse(text: &[u8]) -> Option<u64> {
    // Without case, as a cache should compare them (RFC 9111, section 4.2).
    let text = text.to_ascii_lowercase();
    let (weekday, rest) = text.split_at(text.iter().position(|byte| !byte.is_ascii_lowercase())?);
    let ((day, month, year, time), short) = match rest.len() {
        // , 06 Nov 1994 08:49:37 GMT
        26 => (fields(rest, b", ## ??? #### ##:##:## gmt", [2, 5, 9, 14])?, true),
        // , 06-Nov-94 08:49:37 GMT
        24 => (fields(rest, b", ##-???-## ##:##:## gmt", [2, 5, 9, 12])?, false),
        //  Nov  6 08:49:37 1994
        21 => (fields(rest, b" ??? ?# ##:##:## ####", [5, 1, 17, 8])?, true),
        _ => return None,
    };
    let days = days_since_1970(year, month, day)?;
    let name = DAYS[(days % 7) as usize];
    (weekday == if short { &name[..3] } else { name }).then_some(days * 86_400 + time)
}

/// The day, month (from 0), year and seconds of the day in a text like `pattern`, where `#` is a digit, `?` any byte,
/// and anything else itself. `starts` are where the day, month, year and time begin.
fn fields(text: &[u8], pattern: &[u8], starts: [usize; 4]) -> Option<(u64, usize, u64, u64)> {
    let like = |(byte, pattern): (&u8, &u8)| match pattern {
        b'#' => byte.is_ascii_digit(),
        b'?' => true,
        other => byte == other,
    };
    if text.len() != pattern.len() || !text.iter().zip(pattern).all(like) {
        return None;
    }
    let [day, month, year, time] = starts.map(|start| &text[start..]);
    let month = MONTHS.iter().position(|name| *name == &month[..3])?;
    // asctime pads the day with a blank.
    let day = decimal(day[..2].strip_prefix(b" ").unwrap_or(&day[..2]))?;
    let year = match year.iter().take_while(|byte| byte.is_ascii_digit()).count() {
        // Years more than 50 years from now mean the past. Without a clock the limit is fixed; it is earlier than that,
        // which only makes a date expire that no server sends.
        2 => decimal(&year[..2]).map(|year| if year < 70 { 2000 + year } else { 1900 + year })?,
        _ => decimal(&year[..4])?,
    };
    let [hours, minutes, seconds] = [0, 3, 6].map(|at| decimal(&time[at..at + 2]));
    let (hours, minutes, seconds) = (hours?, minutes?, seconds?);
    // 60 is a leap second.
    (hours < 24 && minutes < 60 && seconds <= 60).then_some((day, month, year, hours * 3600 + minutes * 60 + seconds))
}

/// The number of days from 1 January 1970 to this day; `None` if it does not exist.
fn days_since_1970(year: u64, month: usize, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if year < 1970 || day == 0 || day > lengths[month] {
        return None;
    }
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - 477; // 477 of them before 1970
    Some((year - 1970) * 365 + leap_days + lengths[..month].iter().sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_three_formats_and_nothing_else() {
        let cases = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("sun, 06 NOV 1994 08:49:37 gmt", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 23:59:60 GMT", Some(951_868_800)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800)),
            ("Thu Feb 29 00:00:00 2024", Some(1_709_164_800)),
            ("Fri, 31 Dec 2100 23:59:59 GMT", Some(4_133_980_799)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Wednesday, 30-Dec-37 00:00:00 GMT", Some(2_145_744_000)),
            ("Friday, 31-Dec-99 00:00:00 GMT", Some(946_598_400)),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06-Nov-94 08:49:37 GMT", None),
            ("Sunday, 06 Nov 1994 08:49:37 GMT", None),
            ("Sunday Nov  6 08:49:37 1994", None),
            ("Sun Nov 06 08:49:37 1994", Some(784_111_777)),
            ("Sun Nov x6 08:49:37 1994", None),
            ("Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("Thu, 29 Feb 2100 00:00:00 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 06 Nov 1994 08:49:61 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 +00", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT ", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun,  6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Now 1994 08:49:37 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("1994-11-06T08:49:37Z", None),
            ("784111777", None),
            ("0", None),
            ("-1", None),
            ("", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text.as_bytes()), seconds, "{text}");
        }
    }

    #[test]
    fn days_are_counted_without_a_gap() {
        let mut expected = 0;
        for year in 1970..2420 {
            for (month, day) in (0..12).flat_map(|month| (1..=31).map(move |day| (month, day))) {
                if let Some(days) = days_since_1970(year, month, day) {
                    assert_eq!(days, expected, "{year} {month} {day}");
                    expected += 1;
                }
            }
        }
        assert_eq!(expected, 450 * 365 + 109);
    }
}
