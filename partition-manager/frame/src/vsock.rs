//! What a socket device and whoever connects for its guest say to each other.
//!
//! A jailed partition opens no path. When its guest asks for a port of the host, the device asks a program that
//! connected to the partition's socket and wrote [`SERVE`], which the manager does: a [`Call`] for each connection, to
//! be answered by an [`Answer`] with the connected socket beside it (`SCM_RIGHTS`, unix(7)). Both are records of eight
//! bytes, two little-endian numbers each.

/// The line by which a program takes the calls of a guest, in place of `CONNECT PORT`.
pub const SERVE: &[u8] = b"SERVE\n";
/// Bytes of a record.
pub const RECORD: usize = 8;
/// Most calls of a guest that wait for their answers.
pub const MOST_CALLS: usize = 16;

fn record(first: u32, second: u32) -> [u8; RECORD] {
    (u64::from(second) << 32 | u64::from(first)).to_le_bytes()
}

const fn numbers(record: [u8; RECORD]) -> (u32, u32) {
    let both = u64::from_le_bytes(record);
    (both as u32, (both >> 32) as u32)
}

/// A guest wants to be connected to a port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, which its answer has too.
    pub id: u32,
    /// The port.
    pub port: u32,
}

impl Call {
    /// As it is sent.
    #[must_use]
    pub fn bytes(self) -> [u8; RECORD] {
        record(self.id, self.port)
    }

    /// As it was received.
    #[must_use]
    pub const fn parse(bytes: [u8; RECORD]) -> Self {
        let (id, port) = numbers(bytes);
        Self { id, port }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the call.
    pub id: u32,
    /// Zero when the socket is beside it; else why there is none, an error number of the host's (errno(3)).
    pub error: u32,
}

impl Answer {
    /// As it is sent.
    #[must_use]
    pub fn bytes(self) -> [u8; RECORD] {
        record(self.id, self.error)
    }

    /// As it was received.
    #[must_use]
    pub const fn parse(bytes: [u8; RECORD]) -> Self {
        let (id, error) = numbers(bytes);
        Self { id, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        let call = Call { id: 7, port: u32::MAX - 1 };
        assert_eq!(call.bytes(), [7, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Call::parse(call.bytes()), call);
        let answer = Answer { id: 1 << 31, error: 111 };
        assert_eq!(Answer::parse(answer.bytes()), answer);
    }
}
