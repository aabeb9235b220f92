//! Bytes a transport has accepted and the kernel has not, and when to slow the writer down.
//! A stream transport pushes what a direct write left over and advances by what was sent.
//! It never copies a byte, never writes, and owns no memory while it is empty.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io::IoSlice;

/// How many pieces one gathering write is given at most.
pub const MAX_SLICES: usize = 64;

/// Chunks in the order they were written, the first perhaps sent in part.
///
/// `B` must show the same bytes as long as it is held here.
pub struct WriteBuffer<B> {
    chunks: VecDeque<B>,
    /// How much of the first chunk has been sent.
    offset: usize,
    /// Bytes not yet sent, over all chunks.
    length: usize,
}

impl<B: AsRef<[u8]>> WriteBuffer<B> {
    /// An empty buffer, without memory of its own.
    pub const fn new() -> Self {
        Self { chunks: VecDeque::new(), offset: 0, length: 0 }
    }

    /// Adds a chunk at the end. An empty one is dropped.
    pub fn push(&mut self, chunk: B) {
        let length = chunk.as_ref().len();
        if length > 0 {
            self.length += length;
            self.chunks.push_back(chunk);
        }
    }

    /// How many bytes have not been sent.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether everything has been sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes not yet sent, chunk by chunk.
    pub fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.chunks.front().and_then(|chunk| chunk.as_ref().get(self.offset..));
        first.into_iter().chain(self.chunks.iter().skip(1).map(AsRef::as_ref))
    }

    /// Fills `into` from its start for a gathering write and says how many places were used.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        for (place, bytes) in into.iter_mut().zip(self.unsent()) {
            *place = IoSlice::new(bytes);
            used += 1;
        }
        used
    }

    /// Forgets the first `count` bytes, which were sent, and drops the chunks they complete.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.length, "more bytes were sent than there were");
        let mut sent = self.offset + count.min(self.length);
        self.length = self.length.saturating_sub(count);
        if self.length == 0 {
            return self.clear();
        }
        while let Some(first) = self.chunks.front() {
            let whole = first.as_ref().len();
            if sent < whole {
                break;
            }
            sent -= whole;
            self.chunks.pop_front();
        }
        self.offset = sent;
    }

    /// Drops everything, and gives back the memory: most connections write without a buffer
    /// most of the time.
    pub fn clear(&mut self) {
        self.offset = 0;
        self.length = 0;
        self.chunks = VecDeque::new();
    }

    /// The chunks that are held, whole, the first perhaps sent in part.
    pub fn iter(&self) -> impl Iterator<Item = &B> {
        self.chunks.iter()
    }
}

impl<B: AsRef<[u8]>> Default for WriteBuffer<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> fmt::Debug for WriteBuffer<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WriteBuffer")
            .field("bytes", &self.length)
            .field("chunks", &self.chunks.len())
            .finish()
    }
}

/// The two amounts between which a writer is told to pause and to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaterMarks {
    high: usize,
    low: usize,
}

/// The high mark would have been below the low one; the marks were left as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HighBelowLow {
    /// The high mark that was asked for, or followed from the low one.
    pub high: usize,
    /// The low mark that was asked for, or followed from the high one.
    pub low: usize,
}

impl fmt::Display for HighBelowLow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { high, low } = self;
        write!(formatter, "high ({high}) must be >= low ({low}) must be >= 0")
    }
}

impl Error for HighBelowLow {}

impl WaterMarks {
    /// asyncio's marks: pause above 64 KiB, go on at 16 KiB.
    pub const DEFAULT: Self = Self { high: 64 * 1024, low: 16 * 1024 };

    /// The amount above which a writer pauses.
    #[inline]
    pub const fn high(&self) -> usize {
        self.high
    }

    /// The amount down to which the buffer drains before the writer goes on.
    #[inline]
    pub const fn low(&self) -> usize {
        self.low
    }

    /// Sets both marks by asyncio's rules: a missing high mark is 64 KiB, or four times the low
    /// one if that is given; a missing low mark is a quarter of the high one.
    pub fn set(&mut self, high: Option<usize>, low: Option<usize>) -> Result<(), HighBelowLow> {
        let high =
            high.unwrap_or_else(|| low.map_or(Self::DEFAULT.high, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high / 4);
        if high < low {
            return Err(HighBelowLow { high, low });
        }
        *self = Self { high, low };
        Ok(())
    }

    /// Whether a buffer of `length` bytes asks its writer to pause.
    #[inline]
    pub const fn crossed_high(&self, length: usize) -> bool {
        length > self.high
    }

    /// Whether a buffer of `length` bytes lets a paused writer go on.
    #[inline]
    pub const fn drained(&self, length: usize) -> bool {
        length <= self.low
    }
}

impl Default for WaterMarks {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn filled(chunks: &[&str]) -> WriteBuffer<String> {
        let mut buffer = WriteBuffer::new();
        for chunk in chunks {
            buffer.push((*chunk).to_owned());
        }
        buffer
    }

    fn text<B: AsRef<[u8]>>(buffer: &WriteBuffer<B>) -> String {
        String::from_utf8(buffer.unsent().flatten().copied().collect()).unwrap()
    }

    #[test]
    fn every_way_of_sending_in_pieces_sends_the_same_bytes() {
        for step in 1..=11 {
            let mut buffer = filled(&["abc", "", "d", "efghi", "jk"]);
            let mut sent = String::new();
            while !buffer.is_empty() {
                let count = step.min(buffer.len());
                sent.push_str(&text(&buffer)[..count]);
                let before = buffer.len();
                buffer.advance(count);
                assert_eq!(buffer.len(), before - count);
                assert_eq!(text(&buffer).len(), buffer.len());
            }
            assert_eq!(sent, "abcdefghijk");
        }
    }

    #[test]
    fn slices_fill_what_room_there_is() {
        let mut buffer = filled(&["abc", "de", "f"]);
        buffer.advance(1);
        let mut room = [IoSlice::new(b""); 2];
        assert_eq!(buffer.slices(&mut room), 2);
        assert_eq!((&*room[0], &*room[1]), (&b"bc"[..], &b"de"[..]));
        let mut room = [IoSlice::new(b""); MAX_SLICES];
        assert_eq!(buffer.slices(&mut room), 3);
        assert_eq!(filled(&[]).slices(&mut room), 0);
    }

    #[test]
    fn sent_chunks_are_dropped_and_held_ones_can_be_visited() {
        let mut buffer = filled(&["abc", "de", "f"]);
        buffer.advance(4);
        assert_eq!(buffer.iter().map(String::as_str).collect::<Vec<_>>(), ["de", "f"]);
        assert_eq!((buffer.len(), text(&buffer).as_str()), (2, "ef"));
        buffer.push("gh".to_owned());
        assert_eq!(text(&buffer), "efgh");
        buffer.clear();
        assert_eq!((buffer.len(), buffer.iter().count()), (0, 0));
        buffer.push("i".to_owned());
        assert_eq!(text(&buffer), "i");
    }

    #[test]
    fn an_empty_buffer_owns_no_memory_used_or_not() {
        let mut buffer = filled(&[""]);
        assert_eq!(buffer.chunks.capacity(), 0);
        buffer.push("abc".to_owned());
        buffer.advance(3);
        assert_eq!(buffer.chunks.capacity(), 0);
        buffer.push("abc".to_owned());
        buffer.clear();
        assert_eq!(buffer.chunks.capacity(), 0);
    }

    #[test]
    fn marks_follow_asyncios_rules() {
        let set = |high, low| {
            let mut marks = WaterMarks::DEFAULT;
            marks.set(high, low).map(|()| (marks.high(), marks.low()))
        };
        assert_eq!(set(None, None), Ok((65_536, 16_384)));
        assert_eq!(set(Some(100), None), Ok((100, 25)));
        assert_eq!(set(None, Some(100)), Ok((400, 100)));
        assert_eq!(set(Some(0), None), Ok((0, 0)));
        assert_eq!(set(Some(5), Some(5)), Ok((5, 5)));
        assert_eq!(set(None, Some(usize::MAX)), Ok((usize::MAX, usize::MAX)));
        let refused = set(Some(4), Some(5)).unwrap_err();
        assert_eq!(refused.to_string(), "high (4) must be >= low (5) must be >= 0");
    }

    #[test]
    fn refused_marks_leave_the_old_ones() {
        let mut marks = WaterMarks::default();
        marks.set(Some(10), Some(2)).unwrap();
        marks.set(Some(1), Some(2)).unwrap_err();
        assert_eq!((marks.high(), marks.low()), (10, 2));
    }

    #[test]
    fn a_writer_pauses_above_high_and_goes_on_at_low() {
        let mut marks = WaterMarks::default();
        marks.set(Some(10), Some(2)).unwrap();
        assert!(!marks.crossed_high(10) && marks.crossed_high(11));
        assert!(!marks.drained(3) && marks.drained(2));
    }
}
