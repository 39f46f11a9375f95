//! What the loader has filled in is read-only from then on ("full RELRO"). `.cargo/config.toml` asks the linker for it, and no
//! longer the compiler, which would have calls take a detour; one word missing there would go unnoticed.

const PT_DYNAMIC: u32 = 2;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_NOW: u64 = 1;

/// An ELF file of 64 bits, as this machine orders them.
struct Elf(Vec<u8>);

impl Elf {
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let at = usize::try_from(at).unwrap();
        self.0[at..at + N].try_into().unwrap()
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    /// Where the parts of this kind lie in the file, and how long they are.
    fn parts(&self, kind: u32) -> Vec<(u64, u64)> {
        let (headers, size) = (self.u64(32), u64::from(u16::from_ne_bytes(self.bytes(54))));
        let count = u64::from(u16::from_ne_bytes(self.bytes(56)));
        let headers = (0..count).map(|n| headers + n * size);
        let headers = headers.filter(|&header| u32::from_ne_bytes(self.bytes(header)) == kind);
        headers.map(|header| (self.u64(header + 8), self.u64(header + 32))).collect()
    }
}

#[test]
fn what_the_loader_fills_in_is_read_only() {
    let elf = Elf(std::fs::read(env!("CARGO_BIN_EXE_agent-mesh")).unwrap());
    assert!(elf.0.starts_with(b"\x7fELF\x02"));
    assert_eq!(elf.parts(PT_GNU_RELRO).len(), 1);
    let [(start, length)] = elf.parts(PT_DYNAMIC)[..] else { panic!("one part says what is to be loaded") };
    let mut entries = (start..start + length).step_by(16).map(|at| (elf.u64(at), elf.u64(at + 8)));
    let flags = entries.find_map(|(tag, value)| (tag == DT_FLAGS_1).then_some(value));
    assert!(flags.is_some_and(|flags| flags & DF_1_NOW != 0), "calls are looked up at the start: {flags:x?}");
}
