//! The way out of a console: `~.` at the beginning of a line, as in ssh.

/// What typed bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// What goes to the console.
    pub pass: Vec<u8>,
    /// Whether the session is to be left.
    pub leave: bool,
}

/// Where in a line the typist is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    Tilde,
    Inside,
}

/// Finds the escape in what is typed. `~~` at the beginning of a line is one tilde.
#[derive(Clone, Debug)]
pub struct Escape {
    at: At,
}

impl Default for Escape {
    fn default() -> Self {
        Self { at: At::LineStart }
    }
}

impl Escape {
    /// Takes the next bytes. What follows the escape is dropped.
    pub fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            let begins = matches!(byte, b'\r' | b'\n');
            self.at = match (self.at, byte) {
                (At::LineStart, b'~') => At::Tilde,
                (At::Tilde, b'.') => return Typed { pass, leave: true },
                (At::Tilde, b'~') => {
                    pass.push(b'~');
                    At::Inside
                }
                (before, _) => {
                    if before == At::Tilde {
                        pass.push(b'~');
                    }
                    pass.push(byte);
                    if begins { At::LineStart } else { At::Inside }
                }
            };
        }
        Typed { pass, leave: false }
    }

    /// What was held back when the input ended.
    #[must_use]
    pub fn rest(self) -> &'static [u8] {
        if self.at == At::Tilde { b"~" } else { b"" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> (String, bool) {
        let typed = Escape::default().take(text.as_bytes());
        (String::from_utf8(typed.pass).unwrap(), typed.leave)
    }

    /// The same bytes, one at a time.
    fn pieces(text: &str) -> (String, bool) {
        let mut escape = Escape::default();
        let mut all = Vec::new();
        for byte in text.bytes() {
            let typed = escape.take(&[byte]);
            all.extend(typed.pass);
            if typed.leave {
                return (String::from_utf8(all).unwrap(), true);
            }
        }
        (String::from_utf8(all).unwrap(), false)
    }

    #[test]
    fn leaves_at_the_beginning_of_a_line_only() {
        for (typed, passed, leaves) in [
            ("~.", "", true),
            ("ls\r~.", "ls\r", true),
            ("ls\n~.rest", "ls\n", true),
            ("ls ~.", "ls ~.", false),
            ("~~.", "~.", false),
            ("~x\r~.", "~x\r", true),
            ("~\r~.", "~\r", true),
            ("a~\r.", "a~\r.", false),
            ("~~\r~.", "~\r", true),
        ] {
            assert_eq!(whole(typed), (passed.to_owned(), leaves), "{typed:?}");
            assert_eq!(pieces(typed), (passed.to_owned(), leaves), "{typed:?} byte by byte");
        }
    }

    #[test]
    fn a_tilde_at_the_end_of_input_is_not_lost() {
        let mut escape = Escape::default();
        assert_eq!(escape.take(b"~"), Typed { pass: vec![], leave: false });
        assert_eq!(escape.rest(), b"~");
        assert_eq!(Escape::default().rest(), b"");
    }
}
