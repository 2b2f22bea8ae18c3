//! The frame file as a language: every rule, its patterns, defaults and includes, and a corpus of mistakes.

mod corpus;
mod language;
mod rules;
mod support;
