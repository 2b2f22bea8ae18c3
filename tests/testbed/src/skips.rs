//! Which tests were skipped, and whether they were those that may be.
