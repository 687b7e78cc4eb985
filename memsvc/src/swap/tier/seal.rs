//! Pages sealed before they leave memory.
//!
//! ```text
//!   block in memory    ┌ packed page: len bytes ┬ whatever ┐
//!   seal               │                        │ zeroes   │──▶ all 4 KiB encrypted, to any place
//!                      └────────────────────────┴──────────┘──▶ Seal: nonce, tag, len: stays in memory
//! ```
//! ChaCha20-Poly1305 (RFC 8439) with the page's number and length as associated data. So a page that was
//! changed, that belongs elsewhere, or that is an older one of the same number, does not open. All of the block
//! is encrypted, the zeroes too: who sees the disk does not learn how well a page packs.
//!
//! The key is random, made for one device, nowhere but in this process, and wiped with it. The nonce is a
//! counter of 64 bits in the 96 that there are. No nonce comes twice under a key: each is taken off the
//! counter once, a thousand million a second would need 584 years to come around, and neither key nor
//! counter survives the process or is copied into another (the monitor does not fork).

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroizing, zeroize_stack};

use super::Block;
use crate::core::units::FRAME_SIZE;

/// What it takes to open a sealed page. Useless without the key; to be kept in memory nevertheless, since it
/// says which of all blocks that were ever sealed is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Seal {
    nonce: U64,
    tag: [u8; 16],
    len: U16,
}

const _: () = assert!(size_of::<Seal>() == Seal::SIZE);

impl Seal {
    /// Bytes of [`Seal::to_bytes`].
    pub(crate) const SIZE: usize = 26;

    /// As bytes, to be stored.
    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        zerocopy::transmute!(self)
    }

    /// What [`Seal::to_bytes`] made.
    pub(crate) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        zerocopy::transmute!(bytes)
    }

    /// Bytes of the packed page.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len.get())
    }
}

/// What is authenticated but not encrypted.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Associated {
    page: U64,
    len: U16,
}

/// What came back is not what was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page came back from the tier changed")]
pub(crate) struct Changed;

/// Seals and opens the pages of one device; for any number of threads.
pub(crate) struct Sealer {
    /// Boxed, so that it is not moved with us; where it was before is wiped.
    cipher: Box<ChaCha20Poly1305>,
    next_nonce: AtomicU64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// With a new key.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn new() -> io::Result<Self> {
        let cipher = leaving_nothing(|| {
            let mut key = Zeroizing::new([0; 32]);
            // Waits until the kernel has been seeded, soon after boot; 256 bytes or less come whole from then on.
            let got = rustix::io::retry_on_intr(|| getrandom(&mut key[..], GetRandomFlags::empty()))?;
            if got != key.len() {
                return Err(Errno::IO.into());
            }
            ChaCha20Poly1305::new_from_slice(&key[..]).map(Box::new).map_err(io::Error::other)
        })?;
        Ok(Self { cipher, next_nonce: AtomicU64::new(0) })
    }

    /// Encrypts the block, of which the first `len` bytes are page number `page`, packed, and the rest does
    /// not matter. Allocates nothing.
    ///
    /// # Panics
    /// `len` is more than a block.
    pub(crate) fn seal(&self, page: u64, len: u16, block: &mut Block) -> Seal {
        block.0[usize::from(len)..].fill(0);
        let number = self.next_nonce.fetch_add(1, Ordering::Relaxed);
        let associated = Associated { page: page.into(), len: len.into() };
        let sealed = leaving_nothing(|| {
            let bytes = (&mut block.0[..]).into();
            self.cipher.encrypt_inout_detached(&nonce(number), associated.as_bytes(), bytes)
        });
        match sealed {
            Ok(tag) => Seal { nonce: number.into(), tag: tag.into(), len: len.into() },
            Err(_) => unreachable!("a block is less than the 256 GiB that one nonce is good for"),
        }
    }

    /// Decrypts the block that was sealed as this page, and lends the packed page. Allocates nothing.
    ///
    /// # Errors
    /// It is another one, or was changed. The block stays as it came.
    pub(crate) fn open<'a>(&self, page: u64, seal: &Seal, block: &'a mut Block) -> Result<&'a [u8], Changed> {
        let associated = Associated { page: page.into(), len: seal.len };
        let nonce = nonce(seal.nonce.get());
        let tag = Tag::from(seal.tag);
        leaving_nothing(|| {
            let bytes = (&mut block.0[..]).into();
            self.cipher.decrypt_inout_detached(&nonce, associated.as_bytes(), bytes, &tag)
        })
        .map_err(|_| Changed)?;
        block.0.get(..seal.len()).ok_or(Changed)
    }
}

/// Stack that `work` needs at the most, in a build that is not optimized, and more.
const STACK: usize = 4 << 10;

/// Wipes what `work` leaves on the stack, where the cipher's copies of the key are. The compiler promises nothing about
/// that, and registers are not wiped: a test looks at what is left.
fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    // A frame of its own, so that what is wiped is where it was.
    #[inline(never)]
    fn call<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let done = call(work);
    zeroize_stack::<STACK>();
    done
}

/// The 96 bits of RFC 8439, of which 32 are always zero.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes.into()
}

const _: () = assert!(FRAME_SIZE <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use proptest::prelude::*;

    use super::*;
    use crate::swap::tests::{has_any_of, memory_at, stack_after};

    fn block_of(seed: u64) -> Block {
        let mut block = Block([0; FRAME_SIZE]);
        fastrand::Rng::with_seed(seed).fill(&mut block.0);
        block
    }

    fn copy(block: &Block) -> Block {
        Block(block.0)
    }

    fn opens(sealer: &Sealer, page: u64, seal: &Seal, block: &Block) -> bool {
        sealer.open(page, seal, &mut copy(block)).is_ok()
    }

    proptest! {
        /// What was sealed opens as what it was; nothing else does.
        #[test]
        fn opens_what_was_sealed_and_nothing_else(
            page: u64, len in 0..=FRAME_SIZE as u16, seed: u64,
            bit in 0..FRAME_SIZE * 8, seal_bit in 0..Seal::SIZE * 8, other: u64,
        ) {
            let sealer = Sealer::new().unwrap();
            let plain = block_of(seed);
            let mut block = copy(&plain);
            let seal = sealer.seal(page, len, &mut block);
            let sealed = copy(&block);
            prop_assert_eq!(Seal::from_bytes(seal.to_bytes()), seal);

            let mut flipped = copy(&sealed);
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!opens(&sealer, page, &seal, &flipped));

            let mut bytes = seal.to_bytes();
            bytes[seal_bit / 8] ^= 1 << (seal_bit % 8);
            prop_assert!(!opens(&sealer, page, &Seal::from_bytes(bytes), &sealed));

            let other = if other == page { !page } else { other };
            prop_assert!(!opens(&sealer, other, &seal, &sealed));
            prop_assert!(!opens(&Sealer::new().unwrap(), page, &seal, &sealed), "with another key");

            // An older block of the same page with the newer seal, and the other way round.
            let mut newer = copy(&plain);
            let newer_seal = sealer.seal(page, len, &mut newer);
            prop_assert!(!opens(&sealer, page, &newer_seal, &sealed));
            prop_assert!(!opens(&sealer, page, &seal, &newer));

            let len = usize::from(len);
            prop_assert_eq!(sealer.open(page, &seal, &mut block), Ok(&plain.0[..len]));
            prop_assert!(block.0[len..].iter().all(|byte| *byte == 0), "bytes of another page went along");
        }
    }

    /// Same content, same page: nobody can tell from the outside.
    #[test]
    fn looks_different_each_time() {
        let sealer = Sealer::new().unwrap();
        let blocks = [0; 8].map(|_| {
            let mut block = Block([0; FRAME_SIZE]);
            sealer.seal(1, 100, &mut block);
            block
        });
        for (at, block) in blocks.iter().enumerate() {
            for other in &blocks[at + 1..] {
                let same = block.0.iter().zip(&other.0).filter(|(a, b)| a == b).count();
                assert!(same < 100, "{same} of 4,096 bytes are the same; 16 are expected");
            }
        }
    }

    /// Neither by who makes it nor by who uses it; a copy would be seen.
    #[test]
    fn no_copy_of_the_key_is_left_on_the_stack() {
        let (left, sealer) = stack_after(|| Sealer::new().unwrap());
        // What the cipher consists of.
        const _: () = assert!(size_of::<ChaCha20Poly1305>() == 32);
        let key = memory_at(&raw const *sealer.cipher as usize, 32);
        assert!(!has_any_of(&left, &key), "made");
        let mut block = block_of(1);
        let (left, seal) = stack_after(|| sealer.seal(1, 100, &mut block));
        assert!(!has_any_of(&left, &key), "sealed");
        let (left, _) = stack_after(|| sealer.open(1, &seal, &mut block).unwrap().len());
        assert!(!has_any_of(&left, &key), "opened");
        let (left, _) = stack_after(|| black_box(&mut [0; 32]).copy_from_slice(&key));
        assert!(has_any_of(&left, &key));
    }

    #[test]
    fn threads_never_share_a_nonce() {
        let sealer = Sealer::new().unwrap();
        let mut nonces: Vec<u64> = std::thread::scope(|scope| {
            let sealer = &sealer;
            let seal = move || -> Vec<u64> {
                (0..500).map(|page| sealer.seal(page, 0, &mut block_of(page)).nonce.get()).collect()
            };
            let threads = [0; 4].map(|_| scope.spawn(seal));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        nonces.sort_unstable();
        assert!(nonces.iter().copied().eq(0..2000));
    }
}
