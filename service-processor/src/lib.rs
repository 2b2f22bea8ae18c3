//! The service processor: watches the frame's manager, keeps the event log, and brings the frame down.
//!
//! One thread, the [driver](driver), owns the state of the frame; one, the [log](log), owns the database; one
//! serves the [API](api). They speak through bounded queues, so that neither a slow disk nor a manager that
//! does not answer nor a client can stop the watch.

pub mod api;
pub mod applied;
pub mod clock;
pub mod down;
pub mod driver;
pub mod errors;
pub mod log;
pub mod own;
pub mod record;
pub mod store;
