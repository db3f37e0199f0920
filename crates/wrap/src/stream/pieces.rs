//! A stream that travels in pieces, a message each: piece 0 is the header and segment 0, every other one is a segment.
//! Put together they are the stream. Without a key the pieces are the plaintext itself.
//!
//! Between two pieces nothing of the cipher is kept but the key in locked memory.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use super::{HEADER_LEN, SEGMENT_LEN, Segments, new_header, next, segment_room};
use crate::Error;
use crate::gcm::{self, TAG_LEN};

const WHAT: &str = "the key of the stream";
const BROKEN: Error = Error::StreamInvalid { reason: "an earlier piece of it failed" };

/// What there is of a stream now.
#[derive(Debug)]
pub enum NextPiece {
    /// The next piece, in its order.
    Piece {
        /// Ciphertext, or plaintext without a key; up to [`SEGMENT_LEN`] bytes.
        bytes: Vec<u8>,
        /// It ends the stream.
        is_last: bool,
    },
    /// The reader has nothing yet ([`ErrorKind::WouldBlock`]): ask again.
    NotYet,
    /// The last piece was given.
    End,
}

/// Cuts what a reader gives into pieces, and encrypts each.
pub struct PieceReader<R> {
    reader: R,
    cipher: Option<(Arc<SecretKey>, Vec<u8>, [u8; HEADER_LEN])>,
    /// A whole piece of plaintext that may be the last one.
    current: Option<Zeroizing<Vec<u8>>>,
    /// What was read of the piece after it.
    following: Zeroizing<Vec<u8>>,
    is_at_end: bool,
    /// Of the next piece; `None`: the stream has ended.
    number: Option<u32>,
}

impl<R: Read> PieceReader<R> {
    /// Reads nothing yet. Errors: [`Error::KeyLength`], [`Error::Random`].
    pub fn new(
        key: Option<Arc<SecretKey>>,
        associated_data: &[u8],
        reader: R,
    ) -> Result<PieceReader<R>, Error> {
        let cipher = key
            .map(|key| {
                gcm::check_key(WHAT, &key)?;
                Ok::<_, Error>((key, associated_data.to_vec(), new_header()?))
            })
            .transpose()?;
        let following = buffer();
        Ok(PieceReader { reader, cipher, current: None, following, is_at_end: false, number: Some(0) })
    }

    /// The next piece. After an error the stream cannot go on. Errors: [`Error::Io`], those of locked memory.
    pub fn next_piece(&mut self) -> Result<NextPiece, Error> {
        let Some(number) = self.number else { return Ok(NextPiece::End) };
        if self.current.is_none() {
            if !self.fill(number)? {
                return Ok(NextPiece::NotYet);
            }
            self.current = Some(std::mem::replace(&mut self.following, buffer()));
        }
        let following = next(number)?;
        if !self.fill(following)? {
            return Ok(NextPiece::NotYet);
        }
        let is_last = self.following.is_empty();
        self.number = if is_last { None } else { Some(following) };
        let plain = self.current.take().ok_or(BROKEN)?;
        Ok(NextPiece::Piece { bytes: self.seal(number, is_last, plain)?, is_last })
    }

    fn seal(&self, number: u32, is_last: bool, mut plain: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Error> {
        let Some((key, associated_data, header)) = &self.cipher else { return Ok(plain.to_vec()) };
        Segments::new(key, associated_data, header)?.seal(number, is_last, &mut plain)?;
        Ok(if number == 0 { [header, plain.as_slice()].concat() } else { plain.to_vec() })
    }

    /// Whether the plaintext of a piece is there as far as it goes: full, or the reader is at its end.
    fn fill(&mut self, number: u32) -> Result<bool, Error> {
        let room = segment_room(number) - TAG_LEN;
        while !self.is_at_end && self.following.len() < room {
            let filled = self.following.len();
            self.following.resize(room, 0);
            let read = self.reader.read(&mut self.following[filled..]);
            self.following.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.is_at_end = true,
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Opens the pieces of one stream in their order.
pub struct PieceOpener {
    key: Option<Arc<SecretKey>>,
    associated_data: Vec<u8>,
    header: Option<[u8; HEADER_LEN]>,
    number: Option<u32>,
}

impl PieceOpener {
    /// Errors: [`Error::KeyLength`].
    pub fn new(key: Option<Arc<SecretKey>>, associated_data: &[u8]) -> Result<PieceOpener, Error> {
        if let Some(key) = &key {
            gcm::check_key(WHAT, key)?;
        }
        Ok(PieceOpener { key, associated_data: associated_data.to_vec(), header: None, number: Some(0) })
    }

    /// Whether the last piece was opened: only then is the stream whole.
    pub fn is_whole(&self) -> bool {
        self.number.is_none()
    }

    /// The plaintext of the next piece, of which nothing is given before it was verified. Whether it is the last one is
    /// authentic too. After an error the stream cannot go on.
    ///
    /// Errors: [`Error::StreamInvalid`].
    pub fn open(&mut self, piece: &[u8], is_last: bool) -> Result<Zeroizing<Vec<u8>>, Error> {
        let number = self.number.take().ok_or(BROKEN)?;
        let following = if is_last { None } else { Some(next(number)?) };
        if piece.len() > SEGMENT_LEN {
            return Err(Error::StreamInvalid { reason: "a piece is longer than any can be" });
        }
        let mut plain = buffer();
        if let Some(key) = self.key.clone() {
            let sealed = match self.header {
                Some(_) => piece,
                None => self.take_header(piece)?,
            };
            plain.extend_from_slice(sealed);
            let header = self.header.as_ref().ok_or(BROKEN)?;
            Segments::new(&key, &self.associated_data, header)?.open(number, is_last, &mut plain)?;
        } else {
            plain.extend_from_slice(piece);
        }
        self.number = following;
        if is_last {
            self.key = None;
        }
        Ok(plain)
    }

    fn take_header<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8], Error> {
        let (header, rest) = piece
            .split_first_chunk::<HEADER_LEN>()
            .filter(|(header, _)| usize::from(header[0]) == HEADER_LEN)
            .ok_or(Error::StreamInvalid {
                reason: "its first piece does not begin with the header of a stream",
            })?;
        self.header = Some(*header);
        Ok(rest)
    }
}

/// It never grows, so nothing of it is left elsewhere in memory.
fn buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(SEGMENT_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream;
    use crate::vectors::key;

    /// Gives its bytes in portions, with nothing at hand in between.
    struct Slow<'a>(&'a [u8], usize, bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn shared(byte: u8) -> Arc<SecretKey> {
        Arc::new(key(&[byte; 32]))
    }

    fn pieces(secret: Option<Arc<SecretKey>>, plain: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut reader = PieceReader::new(secret, b"vm", Slow(plain, 400_000, false)).unwrap();
        let mut found = Vec::new();
        loop {
            match reader.next_piece().unwrap() {
                NextPiece::Piece { bytes, is_last } => found.push((bytes, is_last)),
                NextPiece::NotYet => (),
                NextPiece::End => return found,
            }
        }
    }

    fn opened(opener: &mut PieceOpener, pieces: &[(Vec<u8>, bool)]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        for (bytes, is_last) in pieces {
            plain.extend_from_slice(&opener.open(bytes, *is_last)?);
        }
        Ok(plain)
    }

    fn lengths() -> [usize; 6] {
        let (first, other) = (segment_room(0) - TAG_LEN, segment_room(1) - TAG_LEN);
        [0, 1, first, first + 1, first + other, first + 2 * other + 7]
    }

    #[test]
    fn pieces_put_together_are_the_stream() {
        for length in lengths() {
            let plain: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let sealed = pieces(Some(shared(1)), &plain);
            assert!(sealed.last().unwrap().1 && !sealed[..sealed.len() - 1].iter().any(|(_, last)| *last));
            let whole: Vec<u8> = sealed.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let mut read = Vec::new();
            stream::decrypt(&shared(1), b"vm", &mut &whole[..], &mut read, &mut |_| Ok(())).unwrap();
            assert_eq!(read, plain);
            let mut opener = PieceOpener::new(Some(shared(1)), b"vm").unwrap();
            assert_eq!(opened(&mut opener, &sealed).unwrap(), plain);
            assert!(opener.is_whole());
        }
    }

    #[test]
    fn without_a_key_the_pieces_are_the_plaintext() {
        for length in lengths() {
            let plain = vec![7; length];
            let found = pieces(None, &plain);
            let mut opener = PieceOpener::new(None, b"vm").unwrap();
            assert_eq!(opened(&mut opener, &found).unwrap(), plain);
            assert!(opener.is_whole());
        }
    }

    #[test]
    fn a_piece_that_is_not_the_next_one_of_this_stream_is_refused() {
        let plain = vec![9; 3 << 20];
        let (sealed, other) = (pieces(Some(shared(1)), &plain), pieces(Some(shared(1)), &plain));
        let last = sealed.len() - 1;
        let mut cases = vec![
            ("another key", shared(2), &b"vm"[..], sealed.clone()),
            ("another VM", shared(1), &b"other"[..], sealed.clone()),
            ("a piece left out", shared(1), &b"vm"[..], [&sealed[..1], &sealed[2..]].concat()),
            ("a piece twice", shared(1), &b"vm"[..], [&sealed[..2], &sealed[1..]].concat()),
            ("a piece of another stream", shared(1), &b"vm"[..], [&sealed[..1], &other[1..]].concat()),
            ("more after the last one", shared(1), &b"vm"[..], [&sealed[..], &sealed[last..]].concat()),
        ];
        let mut cut = sealed[..2].to_vec();
        cut[1].1 = true;
        cases.push(("an end that is none", shared(1), &b"vm"[..], cut));
        let mut altered = sealed.clone();
        altered[1].0[500] ^= 1;
        cases.push(("an altered piece", shared(1), &b"vm"[..], altered));
        cases.push(("plaintext", shared(1), &b"vm"[..], vec![(vec![9; 100], true)]));
        cases.push(("nothing", shared(1), &b"vm"[..], vec![(Vec::new(), true)]));
        for (name, secret, context, pieces) in cases {
            let mut opener = PieceOpener::new(Some(secret), context).unwrap();
            let error = opened(&mut opener, &pieces).unwrap_err();
            assert_eq!(error.code(), "VMSEAL_STREAM_INVALID", "{name}");
            // What failed does not go on.
            let again = opener.open(&sealed[0].0, false).unwrap_err();
            assert_eq!(again.code(), "VMSEAL_STREAM_INVALID", "{name}");
        }
        let mut opener = PieceOpener::new(Some(shared(1)), b"vm").unwrap();
        opened(&mut opener, &sealed[..last]).unwrap();
        assert!(!opener.is_whole());
    }
}
