//! Names of frames, partitions and the things inside them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A name that can be a file, a cgroup and a host name: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Longest name, in bytes (a DNS label, RFC 1035, section 2.3.4).
pub const LONGEST: usize = 63;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no character.
    #[error("a name cannot be empty")]
    Empty,
    /// The text has more than [`LONGEST`] bytes.
    #[error("a name has at most {LONGEST} characters, this one has {0}")]
    TooLong(usize),
    /// The text has a character outside the alphabet, or begins with a hyphen.
    #[error("a name has only a-z, 0-9 and '-' and begins with a letter or digit; {0:?} cannot stand there")]
    Character(char),
}

impl Name {
    /// Takes `text` as a name.
    ///
    /// # Errors
    /// [`NameError`] when the text does not match `[a-z0-9][a-z0-9-]{0,62}`.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let Some(first) = text.chars().next() else { return Err(NameError::Empty) };
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some(wrong) = text.chars().find(|&c| !inside(c)) {
            return Err(NameError::Character(wrong));
        }
        if first == '-' {
            return Err(NameError::Character('-'));
        }
        if text.len() > LONGEST {
            return Err(NameError::TooLong(text.len()));
        }
        Ok(Self(text))
    }

    /// A name that stands where none could be read; unlike any that can be written.
    #[cfg(feature = "file")]
    pub(crate) fn placeholder(number: usize) -> Self {
        Self(format!("(unnamed {number})"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_design_says() {
        for text in ["a", "0", "db-1", "a-", &"x".repeat(63)] {
            assert!(Name::new(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("-a"), Err(NameError::Character('-')));
        assert_eq!(Name::new("Db"), Err(NameError::Character('D')));
        assert_eq!(Name::new("a/b"), Err(NameError::Character('/')));
        assert_eq!(Name::new("ä"), Err(NameError::Character('ä')));
        assert_eq!(Name::new("x".repeat(64)), Err(NameError::TooLong(64)));
    }
}
