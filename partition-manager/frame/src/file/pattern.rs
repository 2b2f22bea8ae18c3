//! Patterns: texts in which `{n}` stands for the number of a partition, `{n:03}` for the same with zeros
//! before it.

/// Longest text between braces that is looked at, bytes.
const LONGEST: usize = 32;

/// What stands between two braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// A number of at least so many digits.
    Number(usize),
    /// It looks like a placeholder, but is none.
    Unknown,
    /// Braces that mean nothing here.
    Plain,
}

/// A text in pieces: each piece of plain text, and the placeholder after it with what stands there.
fn pieces(text: &str) -> impl Iterator<Item = (&str, Option<(&str, Found)>)> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let mut from = 0;
        while let Some(open) = text.get(from..).and_then(|after| after.find('{')).map(|at| from + at) {
            let after = text.get(open..).unwrap_or_default();
            let end = after.bytes().take(LONGEST).position(|byte| byte == b'}').map(|at| open + at + 1);
            let braces = end.and_then(|end| text.get(open..end));
            match braces.map(|braces| (braces, kind(braces))) {
                Some((_, Found::Plain)) | None => from = open + 1,
                Some((braces, found)) => {
                    rest = text.get(open + braces.len()..);
                    return Some((text.get(..open).unwrap_or_default(), Some((braces, found))));
                }
            }
        }
        Some((text, None))
    })
}

fn kind(braces: &str) -> Found {
    let inside = braces.trim_start_matches('{').trim_end_matches('}');
    if braces.len() != inside.len() + 2 {
        return Found::Plain;
    }
    let width = inside.strip_prefix("n:0").and_then(|digits| match digits.as_bytes() {
        [digit @ b'1'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    });
    match (inside, width) {
        ("n", _) => Found::Number(1),
        (_, Some(width)) => Found::Number(width),
        _ if inside.starts_with(|c: char| c.is_ascii_lowercase())
            && inside.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') =>
        {
            Found::Unknown
        }
        _ => Found::Plain,
    }
}

/// Whether a number has a place in the text.
pub(super) fn has_number(text: &str) -> bool {
    pieces(text).any(|(_, placeholder)| matches!(placeholder, Some((_, Found::Number(_)))))
}

/// The first placeholder of the text that stands for nothing.
pub(super) fn unknown(text: &str) -> Option<&str> {
    pieces(text).find_map(|(_, placeholder)| match placeholder {
        Some((braces, Found::Unknown)) => Some(braces),
        _ => None,
    })
}

/// The text with a number in each of its places; everything else stays as it is.
pub(super) fn fill(text: &str, number: u32) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for (plain, placeholder) in pieces(text) {
        out.push_str(plain);
        match placeholder {
            Some((_, Found::Number(width))) => out.push_str(&format!("{number:0width$}")),
            Some((braces, _)) => out.push_str(braces),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_where_they_belong() {
        assert_eq!(fill("web-{n}", 7), "web-7");
        assert_eq!(fill("{n:03}-{n}{n:02}", 12), "012-1212");
        assert_eq!(fill("{n:02}", 100), "100");
        assert_eq!(fill("", 1), "");
        assert_eq!(fill("plain", 1), "plain");
    }

    #[test]
    fn other_braces_stay() {
        for text in ["{\"a\":{\"b\":1}}", "{", "}", "{}", "{{n}}x", "{ n }", "a{b", "{0}", "{N}", "ä{€}"] {
            assert_eq!(fill(text, 5), text.replace("{n}", "5"), "{text}");
            assert_eq!(unknown(text), None, "{text}");
        }
        assert!(has_number("a{n:09}") && !has_number("{m}"));
    }

    #[test]
    fn what_looks_like_a_placeholder_is_one_or_is_told() {
        for text in ["{m}", "{name}", "{n:3}", "{n:00}", "{n:010}", "{n:x}"] {
            assert_eq!(unknown(&format!("a{{n}}{text}")), Some(text));
        }
        assert_eq!(unknown(&format!("{{{}}}", "x".repeat(100))), None);
    }
}
