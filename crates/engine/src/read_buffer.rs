//! Bytes received and not yet asked for, in one piece, so that they can be searched and sliced.
//! A stream reader adds what its transport received and takes what the program asks for.
//! It never reads, knows no limit, and owns no memory while it is empty.

use std::fmt;

use memchr::{memchr, memmem};

/// One piece of bytes, of which the first may have been taken already.
///
/// `B` must show the same bytes as long as it is held here.
pub struct ReadBuffer<B> {
    /// What came while nothing waited: kept as it is, so that whoever wants all of it can have it
    /// without a copy.
    whole: Option<B>,
    /// What came in several pieces; empty while there is a whole.
    joined: Vec<u8>,
    /// How much of either was taken.
    taken: usize,
}

/// Where a separator was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

impl<B: AsRef<[u8]>> ReadBuffer<B> {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { whole: None, joined: Vec::new(), taken: 0 }
    }

    /// What is there.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        let all = self.whole.as_ref().map_or(self.joined.as_slice(), AsRef::as_ref);
        all.get(self.taken..).unwrap_or_default()
    }

    /// How many bytes are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether nothing is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Adds a piece at the end; it is kept as it is if nothing waits before it.
    pub fn push(&mut self, piece: B) {
        if self.is_empty() {
            self.clear();
            self.whole = Some(piece);
        } else {
            self.extend(piece.as_ref());
        }
    }

    /// Adds a copy of these bytes at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        if let Some(whole) = self.whole.take() {
            let rest = whole.as_ref().get(self.taken..).unwrap_or_default();
            self.joined = Vec::with_capacity(rest.len() + bytes.len());
            self.joined.extend_from_slice(rest);
            self.taken = 0;
        } else if self.taken > self.joined.len() / 2 {
            // What was taken makes room for what comes: each byte is moved once at most.
            self.joined.drain(..self.taken);
            self.taken = 0;
        }
        self.joined.extend_from_slice(bytes);
    }

    /// Forgets the first `count` bytes, which were taken.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "more bytes were taken than there were");
        if count >= self.len() {
            self.clear();
        } else {
            self.taken += count;
        }
    }

    /// Takes everything as it came, if it came in one piece and nothing of it was taken.
    #[inline]
    pub fn take_whole(&mut self) -> Option<B> {
        if self.taken == 0 { self.whole.take() } else { None }
    }

    /// Forgets everything, and gives back the memory: most connections wait with nothing to read.
    pub fn clear(&mut self) {
        self.whole = None;
        self.joined = Vec::new();
        self.taken = 0;
    }

    /// The place of `separator` that ends first, not looking before `from`.
    #[inline]
    pub fn find(&self, separator: &[u8], from: usize) -> Option<Found> {
        let searched = self.as_slice().get(from..)?;
        let start = from
            + match separator {
                [byte] => memchr(*byte, searched)?,
                several => memmem::find(searched, several)?,
            };
        Some(Found { start, end: start + separator.len() })
    }

    /// Of the places of several separators the one that ends first; of those that end together
    /// that of the separator named first.
    pub fn find_any<'a>(
        &self,
        separators: impl Iterator<Item = &'a [u8]>,
        from: usize,
    ) -> Option<Found> {
        separators
            .filter_map(|separator| self.find(separator, from))
            .reduce(|first, found| if found.end < first.end { found } else { first })
    }
}

impl<B: AsRef<[u8]>> Default for ReadBuffer<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for ReadBuffer<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReadBuffer").field("bytes", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&'static [u8]]) -> ReadBuffer<&'static [u8]> {
        let mut buffer = ReadBuffer::new();
        pieces.iter().for_each(|piece| buffer.push(*piece));
        buffer
    }

    #[test]
    fn one_piece_is_given_back_as_it_came() {
        let piece: &'static [u8] = b"all of it";
        let mut buffer = of(&[piece]);
        let whole = buffer.take_whole().map(<[u8]>::as_ptr);
        assert_eq!(whole, Some(piece.as_ptr()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_piece_of_which_something_was_taken_is_no_whole() {
        let mut buffer = of(&[b"abc"]);
        buffer.advance(1);
        assert_eq!(buffer.take_whole(), None);
        assert_eq!(buffer.as_slice(), b"bc");
    }

    #[test]
    fn pieces_are_joined_in_their_order() {
        let mut buffer = of(&[b"abc", b"def", b"ghi"]);
        assert_eq!(buffer.take_whole(), None);
        assert_eq!(buffer.as_slice(), b"abcdefghi");
        buffer.advance(4);
        buffer.extend(b"jkl");
        assert_eq!(buffer.as_slice(), b"efghijkl");
        assert_eq!(buffer.len(), 8);
    }

    #[test]
    fn a_piece_after_a_part_was_taken_keeps_the_rest() {
        let mut buffer = of(&[b"abc"]);
        buffer.advance(2);
        buffer.push(b"def");
        assert_eq!(buffer.as_slice(), b"cdef");
    }

    #[test]
    fn memory_is_given_back_with_the_last_byte() {
        let mut buffer = of(&[b"abc", b"def"]);
        buffer.advance(6);
        assert!(buffer.is_empty());
        assert_eq!(buffer.joined.capacity(), 0);
        buffer.push(b"again");
        assert_eq!(buffer.take_whole(), Some(&b"again"[..]));
    }

    #[test]
    fn bytes_are_moved_a_bounded_number_of_times() {
        let mut buffer = of(&[b"ab", b"cd"]);
        for _ in 0..10_000 {
            buffer.advance(2);
            buffer.extend(b"ef");
        }
        assert_eq!(buffer.len(), 4);
        assert!(buffer.joined.capacity() < 64, "{}", buffer.joined.capacity());
    }

    #[test]
    fn a_separator_is_found_where_it_ends_first() {
        let buffer = of(&[b"one\r\ntwo\n"]);
        assert_eq!(buffer.find(b"\n", 0), Some(Found { start: 4, end: 5 }));
        assert_eq!(buffer.find(b"\r\n", 0), Some(Found { start: 3, end: 5 }));
        assert_eq!(buffer.find(b"\n", 5), Some(Found { start: 8, end: 9 }));
        assert_eq!(buffer.find(b"x", 0), None);
        assert_eq!(buffer.find(b"\n", 100), None);
    }

    #[test]
    fn of_several_separators_the_first_to_end_wins_then_the_first_named() {
        let buffer = of(&[b"some;text, more"]);
        let any = |separators: &[&'static [u8]]| buffer.find_any(separators.iter().copied(), 0);
        assert_eq!(any(&[b",", b";"]), Some(Found { start: 4, end: 5 }));
        assert_eq!(any(&[b";", b"e;"]), Some(Found { start: 4, end: 5 }));
        assert_eq!(any(&[b"e;", b";"]), Some(Found { start: 3, end: 5 }));
        assert_eq!(any(&[b"!", b"?"]), None);
    }
}
