//! Field pictures (PAFF): H.264 in which each field of a frame is coded as a picture of its own, as encoders for
//! broadcast do, and no encoder here. Its macroblocks are samples (I_PCM), so that it takes no more than headers.

/// Width and height of the pictures: two macroblocks across, one of each field down.
const MACROBLOCKS: usize = 2;

/// Writes bits of a NAL unit.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn bits(&mut self, value: u32, count: u32) {
        for at in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= ((value >> at & 1) as u8) << (7 - self.used % 8);
            self.used += 1;
        }
    }

    /// Writes an Exp-Golomb code, ue(v).
    fn golomb(&mut self, value: u32) {
        let code = value + 1;
        let length = 32 - code.leading_zeros();
        self.bits(code, 2 * length - 1);
    }

    fn align(&mut self) {
        self.used = self.used.next_multiple_of(8);
    }

    /// Returns the NAL unit with its start code, and without start codes within it.
    fn nal(mut self, header: u8) -> Vec<u8> {
        self.bits(1, 1); // rbsp_trailing_bits
        let mut out = vec![0, 0, 0, 1, header];
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros >= 2 && byte <= 3 {
                out.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            out.push(byte);
        }
        out
    }
}

fn sequence_set() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.bits(77, 8); // profile: Main
    bits.bits(0, 8);
    bits.bits(30, 8); // level
    for value in [0, 0, 0, 4, 1] {
        bits.golomb(value); // number, bits of frame numbers, type and bits of order counts, reference frames
    }
    bits.bits(0, 1);
    bits.golomb(MACROBLOCKS as u32 - 1);
    bits.golomb(0); // height
    bits.bits(0b0_0100, 5); // fields; no MBAFF; direct_8x8_inference; no cropping; no VUI
    bits.nal(0x67)
}

fn picture_set() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.golomb(0);
    bits.golomb(0);
    bits.bits(0, 2); // CAVLC
    for _ in 0..3 {
        bits.golomb(0); // slice groups, references
    }
    bits.bits(0, 3);
    for _ in 0..3 {
        bits.golomb(0); // quantisers
    }
    bits.bits(0b100, 3); // the deblocking filter is controlled by slices
    bits.nal(0x68)
}

/// Returns one field of a frame.
fn field(frame: u32, is_bottom: bool) -> Vec<u8> {
    let is_idr = frame == 0 && !is_bottom;
    let mut bits = Bits::default();
    bits.golomb(0); // first macroblock
    bits.golomb(7); // I
    bits.golomb(0); // picture parameter set
    bits.bits(frame % 16, 4);
    bits.bits(1, 1); // field_pic_flag
    bits.bits(u32::from(is_bottom), 1);
    if is_idr {
        bits.golomb(0);
    }
    bits.bits((2 * frame + u32::from(is_bottom)) % 256, 8);
    bits.bits(0, if is_idr { 2 } else { 1 }); // marking of references
    bits.golomb(0); // quantiser
    bits.golomb(1); // no deblocking
    for macroblock in 0..MACROBLOCKS {
        bits.golomb(25); // I_PCM
        bits.align();
        for sample in 0..384 {
            let value = 16 + (frame as usize * 7 + usize::from(is_bottom) * 50 + macroblock * 20 + sample / 8) % 200;
            bits.bits(value as u32, 8);
        }
    }
    bits.nal(if is_idr { 0x65 } else { 0x61 })
}

/// Returns the two fields of each frame in decoding order, each an access unit: with a delimiter if wanted, and the
/// parameter sets before the first frame and each 25th.
pub fn frames(count: u32, delimiters: bool) -> Vec<[Vec<u8>; 2]> {
    let delimiter: &[u8] = if delimiters { &[0, 0, 0, 1, 9, 0xf0] } else { &[] };
    let sets =
        |frame: u32| if frame.is_multiple_of(25) { [sequence_set(), picture_set()].concat() } else { Vec::new() };
    let frames = (0..count).map(|frame| {
        let first = [delimiter, &sets(frame), &field(frame, false)].concat();
        [first, [delimiter, &field(frame, true)].concat()]
    });
    frames.collect()
}
