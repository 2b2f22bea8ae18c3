//! The frame file as a language: every rule, its patterns, defaults and includes, and a corpus of mistakes.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod language;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod support;
