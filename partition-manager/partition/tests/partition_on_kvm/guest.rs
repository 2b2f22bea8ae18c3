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

    /// `cpuid` of `leaf` and `subleaf`, of which EAX, EBX, ECX and EDX go to `address` and behind it.
    pub fn cpuid(self, leaf: u32, subleaf: u32, address: u32) -> Self {
        let rest = [[0x89, 0x1d], [0x89, 0x0d], [0x89, 0x15]];
        let code = self.eax(leaf).ecx(subleaf).raw(&[0x0f, 0xa2]).store(address);
        (1..).zip(rest).fold(code, |code, (at, mov)| code.raw(&mov).raw(&(address + 4 * at).to_le_bytes()))
    }

    /// `rdmsr` of `register`, of which the low half goes to `address`.
    pub fn rdmsr(self, register: u32, address: u32) -> Self {
        self.ecx(register).raw(&[0x0f, 0x32]).store(address)
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

    /// `mov dword [address], value`.
    pub fn put(self, address: u32, value: u32) -> Self {
        self.raw(&[0xc7, 0x05]).raw(&address.to_le_bytes()).raw(&value.to_le_bytes())
    }

    /// A multiboot image whose header says what goes where; the code begins at [`FLAT_CODE`].
    pub fn multiboot_flat(&self) -> Vec<u8> {
        let load = CODE as u32;
        let mut file = multiboot_header(1 << 16 | 3, &[load, load, 0, 0, load + 32]);
        file.extend(&self.0);
        file
    }

    /// A multiboot ELF file of 32 bits, whose entry is a virtual address of the upper half.
    pub fn multiboot_elf_32(&self) -> Vec<u8> {
        const CODE_AT: u32 = 52 + 32 + 12;
        const VIRTUAL: u32 = 0xc010_0000;
        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
        let size = self.0.len() as u32;
        for word in [1, VIRTUAL, 52, 0, 0, 32 << 16 | 52, 1, 0] {
            file.extend(word.to_le_bytes());
        }
        // The last word of the header ends within the program header's table.
        file.truncate(52);
        for word in [1, CODE_AT, VIRTUAL, CODE as u32, size, size, 7, 4] {
            file.extend(word.to_le_bytes());
        }
        file.extend(multiboot_header(3, &[]));
        file.extend(&self.0);
        file
    }

    /// The ELF file of 64 bits with a PVH note, and with a multiboot header behind its code.
    pub fn multiboot_elf_64(&self) -> Vec<u8> {
        let mut file = self.elf();
        file.resize(file.len().next_multiple_of(4), 0);
        file.extend(multiboot_header(3, &[]));
        file
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

/// Where the code of [`Code::multiboot_flat`] begins.
pub const FLAT_CODE: u64 = CODE + 32;

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let sum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [MAGIC, flags, sum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}
