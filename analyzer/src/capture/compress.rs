//! Compressed captures, found by their first bytes.

use std::io::{self, BufReader, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];

/// Unwraps gzip (several members too), zstd and lz4 frames; anything else passes as it is. Memory stays bounded: the
/// result is a stream.
///
/// # Errors
/// The first bytes could not be read.
pub fn decompress(mut input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut head = Vec::with_capacity(4);
    // A pipe may give fewer bytes at a time.
    input.by_ref().take(4).read_to_end(&mut head)?;
    let gzip = head.starts_with(GZIP);
    let zstd = head.starts_with(ZSTD);
    let lz4 = head.starts_with(LZ4);
    let input = BufReader::with_capacity(1 << 16, io::Cursor::new(head).chain(input));
    Ok(if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
    } else if lz4 {
        Box::new(lz4_flex::frame::FrameDecoder::new(input))
    } else {
        Box::new(input)
    })
}
