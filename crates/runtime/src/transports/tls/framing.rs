//! Where the records of a stream end (RFC 8446, section 5.1), to know without asking OpenSSL when
//! it has nothing to decrypt: its answer to a question too many is an exception, which costs as
//! much as decrypting a small message.
//!
//! The records module feeds it what it feeds OpenSSL. It never refuses anything: of what is no
//! record it only says so, and OpenSSL is asked.

/// Type, version, length.
const HEADER: usize = 5;

/// The longest record of any version of TLS: 16 KiB and what encryption may add.
const LONGEST: usize = (1 << 14) + 2048;

/// The records of one direction of a connection.
#[derive(Default)]
pub struct Framing {
    header: [u8; HEADER],
    /// How much of the header has been seen.
    seen: usize,
    /// How much of the record's body is yet to come.
    missing: usize,
    /// How much of an unfinished record has been seen.
    unfinished: usize,
    broken: bool,
}

impl Framing {
    /// Follows more of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len());
                bytes = &bytes[count..];
                self.missing -= count;
                self.unfinished += count;
            } else {
                let count = (HEADER - self.seen).min(bytes.len());
                self.header[self.seen..self.seen + count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.seen += count;
                self.unfinished += count;
                if self.seen < HEADER {
                    return;
                }
                self.seen = 0;
                self.missing = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.broken = !(20..=24).contains(&self.header[0])
                    || self.header[1] != 3
                    || self.missing > LONGEST;
            }
            if self.missing == 0 && self.seen == 0 {
                self.unfinished = 0;
            }
        }
    }

    /// How many bytes at the end of the stream belong to a record that is not complete; None when
    /// the stream is no stream of records.
    pub fn unfinished(&self) -> Option<usize> {
        (!self.broken).then_some(self.unfinished)
    }
}
