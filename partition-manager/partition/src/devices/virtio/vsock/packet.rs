//! The header of a packet (virtio 1.2, section 5.10.6: `struct virtio_vsock_hdr`).

/// Bytes of the header.
pub const HEADER: usize = 44;
/// The host's context identifier (section 5.10.4).
pub const HOST: u64 = 2;
/// The type of a stream's packets (section 5.10.6).
pub const STREAM: u16 = 1;

/// What a packet is for (section 5.10.6).
pub mod operation {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Grants it.
    pub const RESPONSE: u16 = 2;
    /// Ends or refuses it.
    pub const RESET: u16 = 3;
    /// Says what its sender will do no more.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const DATA: u16 = 5;
    /// Says how much its sender has room for.
    pub const CREDIT: u16 = 6;
    /// Asks for that.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flag of a shutdown: its sender receives no more.
pub const NO_RECEIVE: u32 = 1;
/// Flag of a shutdown: its sender sends no more.
pub const NO_SEND: u32 = 2;

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Sender's context identifier.
    pub source: u64,
    /// Receiver's.
    pub destination: u64,
    /// Sender's port.
    pub source_port: u32,
    /// Receiver's port.
    pub destination_port: u32,
    /// Bytes of data behind the header.
    pub bytes: u32,
    /// Of what kind the socket is.
    pub kind: u16,
    /// What it is for, [`operation`].
    pub operation: u16,
    /// Flags of that.
    pub flags: u32,
    /// Bytes that its sender can keep.
    pub room: u32,
    /// Bytes that its sender has passed on, modulo 2^32.
    pub passed: u32,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let number = |at: usize, count: usize| {
            bytes.iter().skip(at).take(count).rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            source: number(0, 8),
            destination: number(8, 8),
            source_port: number(16, 4) as u32,
            destination_port: number(20, 4) as u32,
            bytes: number(24, 4) as u32,
            kind: number(28, 2) as u16,
            operation: number(30, 2) as u16,
            flags: number(32, 4) as u32,
            room: number(36, 4) as u32,
            passed: number(40, 4) as u32,
        }
    }

    /// Writes it.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields = (self.source.to_le_bytes().into_iter())
            .chain(self.destination.to_le_bytes())
            .chain(self.source_port.to_le_bytes())
            .chain(self.destination_port.to_le_bytes())
            .chain(self.bytes.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.operation.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.room.to_le_bytes())
            .chain(self.passed.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }
}
