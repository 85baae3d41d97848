//! Compressed captures, found by their first bytes: gzip (several members too), zstd and lz4 frames, one within another at
//! most. The result is a stream, so memory stays bounded whatever the ratio.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex};

/// How deep compression is undone: a `.gz` within a `.zst`, and no further.
const DEPTH: usize = 2;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];
/// What `lz4 -l` writes.
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// A stream of bytes.
pub type Stream = Box<dyn Read + Send>;

/// What went wrong with the input itself, apart from what undoing its compression found.
#[derive(Clone, Debug, Default)]
pub struct InputFault(Arc<Mutex<Option<io::Error>>>);

impl InputFault {
    /// The error, once.
    pub fn take(&self) -> Option<io::Error> {
        self.0.lock().ok()?.take()
    }
}

/// Undoes compression; anything else passes as it is. An error of the input itself is kept in the second value too: it is no
/// fault of what the input holds.
///
/// # Errors
/// No memory for a decoder.
pub fn decompress(input: Stream) -> io::Result<(Stream, InputFault)> {
    let fault = InputFault::default();
    let mut stream: Stream = Box::new(Watched { input, fault: fault.clone() });
    for _ in 0..DEPTH {
        // An error comes again when the stream is read.
        let Ok(head) = first_bytes(&mut stream) else { return Ok((stream, fault)) };
        let (gzip, zstd, lz4) = (head.starts_with(GZIP), head.starts_with(ZSTD), is_lz4(&head));
        let input = Cursor::new(head).chain(stream);
        let (name, decoder): (_, Stream) = if gzip {
            ("gzip", Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, input))))
        } else if zstd {
            ("zstd", Box::new(zstd::stream::read::Decoder::new(input)?))
        } else if lz4 {
            ("lz4", Box::new(Lz4Frames::new(BufReader::with_capacity(1 << 16, input))))
        } else {
            return Ok((Box::new(input), fault));
        };
        stream = Box::new(Named { name, decoder, failed: None });
    }
    Ok((stream, fault))
}

/// The first four bytes, or all there are, after the skippable frames with which some writers of zstd and lz4 begin (pzstd).
/// What was read before an error counts; the error comes again with the next read.
fn first_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    loop {
        let mut head = Vec::with_capacity(4);
        match input.by_ref().take(4).read_to_end(&mut head) {
            Err(error) if head.is_empty() => return Err(error),
            _ => {}
        }
        if !matches!(head[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            return Ok(head);
        }
        let mut size = [0; 4];
        input.read_exact(&mut size)?;
        io::copy(&mut input.by_ref().take(u32::from_le_bytes(size).into()), &mut io::sink())?;
    }
}

fn is_lz4(head: &[u8]) -> bool {
    head == LZ4 || head == LZ4_LEGACY
}

/// Remembers an error of the input, which a decoder around it may turn into another.
struct Watched {
    input: Stream,
    fault: InputFault,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
            && let Ok(mut fault) = self.fault.0.lock()
        {
            let same = error
                .raw_os_error()
                .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error);
            fault.get_or_insert(same);
        }
        read
    }
}

/// Says which compression broke, again with every read: decoders leave it open what follows an error.
struct Named {
    name: &'static str,
    decoder: Stream,
    failed: Option<(io::ErrorKind, String)>,
}

impl Read for Named {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            match self.decoder.read(buffer) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    let what = match error.kind() {
                        io::ErrorKind::UnexpectedEof => format!("the {} stream is cut", self.name),
                        _ => format!("the {} stream breaks ({error})", self.name),
                    };
                    self.failed = Some((error.kind(), what));
                }
                read => return read,
            }
        }
        match &self.failed {
            Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
            None => Ok(0),
        }
    }
}

/// Several lz4 frames in a row. lz4_flex ends quietly where its input does, even within a frame, so the ends are watched here.
struct Lz4Frames<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<Lz4Input<R>>,
    /// The first frame's head has been read.
    begun: bool,
}

struct Lz4Input<R> {
    input: R,
    /// A frame's first bytes, given again to the decoder.
    head: Cursor<Vec<u8>>,
    /// The frame is of the old kind, which ends where the input does.
    legacy: bool,
    /// The input ended while a frame was read.
    ended: bool,
}

impl<R: Read> Lz4Frames<R> {
    fn new(input: R) -> Lz4Frames<R> {
        let input = Lz4Input { input, head: Cursor::default(), legacy: false, ended: false };
        Lz4Frames { decoder: lz4_flex::frame::FrameDecoder::new(input), begun: false }
    }

    /// Whether another frame follows.
    fn next_frame(&mut self) -> io::Result<bool> {
        let input = self.decoder.get_mut();
        let head = first_bytes(&mut input.input)?;
        input.legacy = head == LZ4_LEGACY;
        let more = !head.is_empty();
        input.head = Cursor::new(head);
        Ok(more)
    }
}

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.begun {
                let read = self.decoder.read(buffer)?;
                let input = self.decoder.get_ref();
                match (read, input.ended, input.legacy) {
                    (0, true, false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    (0, false, _) => {}
                    _ => return Ok(read),
                }
            }
            if !self.next_frame()? {
                return Ok(0);
            }
            self.begun = true;
        }
    }
}

impl<R: Read> Read for Lz4Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.head.read(buffer)? {
            0 => self.input.read(buffer)?,
            read => read,
        };
        self.ended |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (mut stream, _) = decompress(Box::new(Cursor::new(bytes.to_vec()))).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map_err(|error| error.to_string())?;
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    const EMPTY_FRAME: [u8; 11] = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];

    #[test]
    fn each_kind_with_several_parts() {
        for pack in [gzip, lz4, zstd] {
            assert_eq!(unpacked(&pack(b"all of it")).unwrap(), b"all of it");
            assert_eq!(unpacked(&[pack(b"one "), pack(b""), pack(b"two")].concat()).unwrap(), b"one two");
        }
        for pack in [lz4, zstd] {
            let skipping = [&EMPTY_FRAME[..], &pack(b"one "), &EMPTY_FRAME, &pack(b"two"), &EMPTY_FRAME].concat();
            assert_eq!(unpacked(&skipping).unwrap(), b"one two");
        }
    }

    #[test]
    fn one_within_another_and_no_deeper() {
        assert_eq!(unpacked(&zstd(&gzip(b"all of it"))).unwrap(), b"all of it");
        assert_eq!(unpacked(&gzip(&lz4(b"all of it"))).unwrap(), b"all of it");
        assert_eq!(unpacked(&gzip(&gzip(&gzip(b"deep")))).unwrap()[..2], *GZIP);
    }

    #[test]
    fn what_is_not_compressed_passes() {
        for bytes in [&b""[..], b"a", b"abcdefgh", &[0x1f], &[0x28, 0xb5, 0x2f]] {
            assert_eq!(unpacked(bytes).unwrap(), bytes);
        }
    }

    #[test]
    fn a_cut_is_found_wherever_it_is() {
        let text: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (name, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("lz4", lz4), ("zstd", zstd)] {
            let whole = pack(&text);
            for keep in [5, 8, 20, 1000, whole.len() / 2, whole.len() - 5, whole.len() - 4, whole.len() - 1] {
                let error = unpacked(&whole[..keep]).unwrap_err();
                assert!(error.contains(name), "{name} {keep}: {error}");
            }
        }
    }

    #[test]
    fn an_error_of_the_input_is_kept() {
        struct Bad;
        impl Read for Bad {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is ill"))
            }
        }
        let whole = gzip(b"all of it");
        let half = Cursor::new(whole[..whole.len() / 2].to_vec());
        let (mut stream, fault) = decompress(Box::new(half.chain(Bad))).unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(fault.take().unwrap().to_string(), "the disk is ill");
    }
}
