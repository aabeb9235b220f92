//! Which descriptors are ready: the words in which the loop and the kernel speak about that.
//! The loop registers descriptors under tokens and reads back readiness. A backend fulfils this
//! contract level-triggered, and it never keeps a descriptor open or closes one it was given.

mod epoll;

pub use epoll::{Events, Poller};

/// The name a registration answers to: a place in the caller's table and that place's age.
///
/// The generation tells a late report about a descriptor that has gone from one about its
/// successor in the same place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// The place in the caller's table.
    pub index: u32,
    /// How often that place had been used before.
    pub generation: u32,
}

impl Token {
    /// The token as the 64 bits that travel through the kernel.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// The token that `to_bits` turned into `bits`.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// What the owner of a descriptor wants to hear about.
///
/// Errors and hang-ups are reported whatever the interest, `NONE` included, and again at each
/// wait until the descriptor is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    /// Report when reading would not block.
    pub read: bool,
    /// Report when writing would not block.
    pub write: bool,
}

impl Interest {
    /// Neither direction.
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing only.
    pub const WRITE: Self = Self { read: false, write: true };

    /// Whether neither direction is wanted.
    #[inline]
    pub const fn is_none(self) -> bool {
        !self.read && !self.write
    }

    /// The same interest with reading switched on or off.
    #[inline]
    #[must_use]
    pub const fn with_read(self, read: bool) -> Self {
        Self { read, ..self }
    }

    /// The same interest with writing switched on or off.
    #[inline]
    #[must_use]
    pub const fn with_write(self, write: bool) -> Self {
        Self { write, ..self }
    }
}

/// One report: what the descriptor registered under `token` is ready for.
///
/// An error or a hang-up makes both directions ready, wanted or not, so that whoever reads or
/// writes next finds it; the owner compares with its interest.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The name given at registration.
    pub token: Token,
    /// Reading would not block.
    pub readable: bool,
    /// Writing would not block.
    pub writable: bool,
    /// The kernel reported an error, or that both directions are shut.
    pub hung_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip_through_the_kernels_bits() {
        for index in [0, 1, 77, u32::MAX] {
            for generation in [0, 1, 1 << 31, u32::MAX] {
                let token = Token { index, generation };
                assert_eq!(Token::from_bits(token.to_bits()), token);
            }
        }
        let first = Token { index: 1, generation: 0 };
        let second = Token { index: 0, generation: 1 };
        assert_ne!(first.to_bits(), second.to_bits());
    }

    #[test]
    fn interest_is_changed_one_direction_at_a_time() {
        assert!(Interest::default().is_none());
        assert_eq!(Interest::NONE.with_read(true), Interest::READ);
        assert_eq!(Interest::NONE.with_write(true), Interest::WRITE);
        let both = Interest::READ.with_write(true);
        assert_eq!(both, Interest { read: true, write: true });
        assert_eq!(both.with_read(false), Interest::WRITE);
        assert!(!Interest::WRITE.is_none());
    }
}
