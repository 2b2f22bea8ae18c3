//! Micro guests: a few instructions in an ELF file with a PVH note.

/// Where the code of a micro guest begins.
pub const CODE: u64 = 0x10_0000;

/// 32-bit code, put together by instruction.
#[derive(Clone, Debug, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// No code yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// `mov eax, value`.
    pub fn eax(self, value: u32) -> Self {
        self.raw(&[0xb8]).raw(&value.to_le_bytes())
    }

    /// `mov ebx, eax`.
    pub fn ebx_from_eax(self) -> Self {
        self.raw(&[0x89, 0xc3])
    }

    /// `mov ecx, value`.
    pub fn ecx(self, value: u32) -> Self {
        self.raw(&[0xb9]).raw(&value.to_le_bytes())
    }

    /// `mov dx, port`.
    fn dx(self, port: u16) -> Self {
        self.raw(&[0x66, 0xba]).raw(&port.to_le_bytes())
    }

    /// `out port, value`, 8 bits.
    pub fn out8(self, port: u16, value: u8) -> Self {
        self.dx(port).raw(&[0xb0, value, 0xee])
    }

    /// `out port, value`, 16 bits.
    pub fn out16(self, port: u16, value: u16) -> Self {
        self.dx(port).raw(&[0x66, 0xb8]).raw(&value.to_le_bytes()).raw(&[0x66, 0xef])
    }

    /// `mov dx, port; out dx, eax`.
    pub fn out32_eax(self, port: u16) -> Self {
        self.dx(port).raw(&[0xef])
    }

    /// Writes EAX to the exit device.
    pub fn exit_eax(self) -> Self {
        self.out32_eax(frame::platform::EXIT_PORT)
    }

    /// `in al, port`.
    pub fn in8(self, port: u16) -> Self {
        self.dx(port).raw(&[0xec])
    }

    /// `in eax, port`.
    pub fn in32(self, port: u16) -> Self {
        self.dx(port).raw(&[0xed])
    }

    /// `mov eax, [address]`.
    pub fn load(self, address: u32) -> Self {
        self.raw(&[0xa1]).raw(&address.to_le_bytes())
    }

    /// `mov [address], eax`.
    pub fn store(self, address: u32) -> Self {
        self.raw(&[0xa3]).raw(&address.to_le_bytes())
    }

    /// Powers off (ACPI, soft off).
    pub fn power_off(self) -> Self {
        use frame::platform::{PM1A_CONTROL_PORT, SLEEP_TYPE_S5};
        self.out16(PM1A_CONTROL_PORT, SLEEP_TYPE_S5 << 10 | 1 << 13)
    }

    /// Loops for ever.
    pub fn spin(self) -> Self {
        self.raw(&[0xeb, 0xfe])
    }

    /// Where the next instruction will be.
    pub fn here(&self) -> u64 {
        CODE + self.0.len() as u64
    }

    /// The ELF file: header, two program headers, note, code.
    pub fn elf(&self) -> Vec<u8> {
        const NOTE_AT: u64 = 64 + 2 * 56;
        const CODE_AT: u64 = NOTE_AT + 24;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let size = self.0.len() as u64;
        let mut put = |fields: &[(u64, usize)]| {
            for (value, length) in fields {
                file.extend(value.to_le_bytes().iter().take(*length));
            }
        };
        put(&[(2, 2), (62, 2), (1, 4), (CODE, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)]);
        put(&[(0, 2), (0, 2), (0, 2)]);
        put(&[(1, 4), (7, 4), (CODE_AT, 8), (CODE, 8), (CODE, 8), (size, 8), (size, 8), (1, 8)]);
        put(&[(4, 4), (4, 4), (NOTE_AT, 8), (0, 8), (0, 8), (24, 8), (24, 8), (4, 8)]);
        put(&[(4, 4), (8, 4), (18, 4), (u64::from(u32::from_le_bytes(*b"Xen\0")), 4), (CODE, 8)]);
        file.extend(&self.0);
        file
    }
}
