//! Pages made smaller, and whole again.

use std::fmt;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};

use super::session::Page;
use crate::core::units::FRAME_SIZE;

/// How pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// LZ4: some microseconds a page.
    #[default]
    Lz4,
    /// Zstandard at its fastest usual level (1): smaller, at several times the work.
    Zstd,
    /// Not at all.
    None,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 3] = [Codec::Lz4, Codec::Zstd, Codec::None];

    /// Its name, as operators write it.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
            Codec::None => "none",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Codec::ALL.into_iter().find(|codec| codec.name() == text);
        known.ok_or_else(|| format!("there is no compression {text:?}: lz4, zstd or none"))
    }
}

const ZSTD_LEVEL: i32 = 1;
/// A page that is not smaller than this is stored as it is: what is saved is not worth unpacking it
/// (a slab has a place less than half a frame smaller for it, at best).
const WORTH: usize = FRAME_SIZE - FRAME_SIZE / 8;
/// Distance of the bytes of a page that are looked at to tell whether it is random: odd, so that all places of
/// a word and of a record are among them.
const STRIDE: usize = 17;
/// So many different values among these 241 bytes, and it is. Of random ones 156 are expected, and fewer than
/// 140 hardly ever seen.
const RANDOM: u32 = 140;

/// What compressing a page came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed<'a> {
    pub(crate) codec: Codec,
    pub(crate) bytes: &'a [u8],
}

/// What it takes to pack and unpack, made once for a connection: packing allocates nothing.
pub(crate) struct Packer {
    codec: Codec,
    table: CompressTable,
    /// What is left of pages in there cannot be wiped: zstd has no call for that.
    zstd: Option<(Compressor<'static>, Decompressor<'static>)>,
    /// Wiped when it goes.
    out: Zeroizing<Box<[u8]>>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Packer {
    /// Packs by this codec; unpacks what was packed by it.
    ///
    /// None when there is no memory for that.
    pub(crate) fn new(codec: Codec) -> Option<Self> {
        let zstd = if codec == Codec::Zstd { Some(zstd_contexts()?) } else { None };
        let room = get_maximum_output_size(FRAME_SIZE).max(zstd::zstd_safe::compress_bound(FRAME_SIZE));
        Some(Self { codec, table: CompressTable::small(), zstd, out: Zeroizing::new(vec![0; room].into()) })
    }

    /// A page, smaller if it can be.
    pub(crate) fn pack<'a>(&'a mut self, page: &'a Page) -> Packed<'a> {
        let len = match (self.codec, &mut self.zstd) {
            _ if is_random(page) => None,
            (Codec::Lz4, _) => compress_into_with_table(page, &mut self.out, &mut self.table).ok(),
            (Codec::Zstd, Some((compressor, _))) => {
                compressor.compress_to_buffer(page, &mut self.out[..]).ok()
            }
            _ => None,
        };
        match len.and_then(|len| self.out.get(..len)).filter(|bytes| bytes.len() < WORTH) {
            Some(bytes) => Packed { codec: self.codec, bytes },
            None => Packed { codec: Codec::None, bytes: page },
        }
    }

    /// The page again. False when that is not what the bytes are.
    pub(crate) fn unpack(&mut self, codec: Codec, bytes: &[u8], page: &mut Page) -> bool {
        let len = match (codec, &mut self.zstd) {
            (Codec::None, _) => {
                let is_whole = bytes.len() == FRAME_SIZE;
                if is_whole {
                    page.copy_from_slice(bytes);
                }
                return is_whole;
            }
            (Codec::Lz4, _) => decompress_into(bytes, page).ok(),
            (Codec::Zstd, Some((_, decompressor))) => {
                decompressor.decompress_to_buffer(bytes, &mut page[..]).ok()
            }
            (Codec::Zstd, None) => None,
        };
        len == Some(FRAME_SIZE)
    }
}

/// With the memory that they need: they have used it once.
fn zstd_contexts() -> Option<(Compressor<'static>, Decompressor<'static>)> {
    let (mut compressor, mut decompressor) = (Compressor::new(ZSTD_LEVEL).ok()?, Decompressor::new().ok()?);
    let bytes = compressor.compress(&[1; FRAME_SIZE]).ok()?;
    decompressor.decompress(&bytes, FRAME_SIZE).ok()?;
    Some((compressor, decompressor))
}

/// True when a page looks so random that packing it is lost work.
fn is_random(page: &Page) -> bool {
    let mut seen = [0u8; 256];
    for byte in page.iter().step_by(STRIDE) {
        seen[usize::from(*byte)] = 1;
    }
    seen.iter().map(|seen| u32::from(*seen)).sum::<u32>() >= RANDOM
}

/// The word of which all of a page consists.
pub(crate) fn same_filled(page: &Page) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let first = words.first()?;
    // The last differs where most pages do (`zswap_is_page_same_filled`, mm/zswap.c).
    if words.last() != Some(first) || words.iter().any(|word| word != first) {
        return None;
    }
    Some(u64::from_ne_bytes(*first))
}

/// Fills a page with a word.
pub(crate) fn fill(page: &mut Page, word: u64) {
    let (words, _) = page.as_chunks_mut::<8>();
    words.fill(word.to_ne_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random_page(seed: u64) -> Page {
        let mut random = fastrand::Rng::with_seed(seed);
        std::array::from_fn(|_| random.u8(..))
    }

    proptest! {
        /// What comes back is what was packed, whatever it is; and nothing takes more than a page.
        #[test]
        fn comes_back_as_it_was(seed: u64, random in 0..=FRAME_SIZE, codec in 0..3usize) {
            let mut page = random_page(seed);
            page[random..].fill(seed as u8);
            let codec = Codec::ALL[codec];
            let mut packer = Packer::new(codec).unwrap();
            let Packed { codec, bytes } = packer.pack(&page);
            prop_assert!(bytes.len() <= FRAME_SIZE);
            let bytes = bytes.to_vec();
            let mut again = [0xA5; FRAME_SIZE];
            prop_assert!(packer.unpack(codec, &bytes, &mut again));
            prop_assert!(again == page);
        }

        /// What is not a page is not taken for one.
        #[test]
        fn nonsense_is_refused_or_a_page(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let mut page = [0; FRAME_SIZE];
            for codec in Codec::ALL {
                let is_page = Packer::new(codec).unwrap().unpack(codec, &bytes, &mut page);
                prop_assert!(codec != Codec::None || is_page == (bytes.len() == FRAME_SIZE));
            }
        }
    }

    #[test]
    fn half_random_pages_are_packed_and_random_ones_are_not() {
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut packer = Packer::new(codec).unwrap();
            let mut page = random_page(1);
            assert_eq!(packer.pack(&page), Packed { codec: Codec::None, bytes: &page });
            page[FRAME_SIZE / 2..].fill(7);
            let Packed { codec: by, bytes } = packer.pack(&page);
            assert!(by == codec && bytes.len() < FRAME_SIZE * 6 / 10, "{codec}: {}", bytes.len());
            page.rotate_left(FRAME_SIZE / 2);
            assert_eq!(packer.pack(&page).codec, codec, "the random half comes second");
        }
    }

    /// Of these nearly all are told from the others; one that is not is packed for nothing.
    #[test]
    fn random_pages_are_told() {
        let random = (0..1000).filter(|seed| is_random(&random_page(*seed))).count();
        assert!(random >= 990, "{random} of 1,000");
        let mut page = random_page(1);
        // Records of 16 bytes with four random ones in each.
        page.chunks_mut(16).for_each(|record| record[4..].fill(3));
        assert!(!is_random(&page));
    }

    #[test]
    fn same_filled_is_told_from_nearly() {
        let mut page = [0; FRAME_SIZE];
        assert_eq!(same_filled(&page), Some(0));
        fill(&mut page, 0x0123_4567_89AB_CDEF);
        assert_eq!(same_filled(&page), Some(0x0123_4567_89AB_CDEF));
        for at in [0, 8, FRAME_SIZE / 2, FRAME_SIZE - 1] {
            page[at] ^= 1;
            assert_eq!(same_filled(&page), None, "byte {at} differs");
            page[at] ^= 1;
        }
    }
}
