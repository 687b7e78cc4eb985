//! Size classes: which place an object of so many bytes gets, and of how many frames its slab is.
//!
//! Sizes are counted in units of 16 bytes, from 32. For each size the slab of 1 to 8 frames is chosen in which
//! places fill the most; the least frames where that is equal. Neighbouring sizes for which that comes to
//! the same number of objects a frame are one class: the smaller would save nothing.
//!
//! ```text
//!   bytes       32    48    64   512   544  1504  2720  2976  3072  3504  4096
//!   frames       1     3     1     1     2     7     2     8     3     6     1
//!   places     128   256    64     8    15    19     3    11     4     7     1
//! ```
//! These are some of the 119. With sizes of 100 to 3,500 bytes, each as likely, 1.9 % of a full slab is waste,
//! rounding up and the tail together; at worst, at 113 bytes, 11.7 % (the test below prints and pins it).
//! Where the chunk for a slab cannot be had, the best slab of fewer frames is made.

use crate::core::units::{FRAME_SIZE, Order};

/// What sizes and addresses are multiples of.
pub(super) const UNIT: usize = 16;
/// Units of the smallest place.
const LEAST: usize = 2;
/// Units in a frame: as many sizes are told apart.
pub(super) const UNITS: usize = FRAME_SIZE / UNIT;
/// Most frames of a slab.
const MAX_FRAMES: usize = 8;
/// Most places of a slab: what an [`Object`](super::Object) has room for.
pub(super) const MAX_PLACES: usize = 256;
/// Places of a group: what a front holds.
pub(super) const GROUP: usize = 32;
/// Orders that slabs are made of: 0 to 3.
const ORDERS: usize = 4;
/// How many classes there are.
pub(super) const CLASSES: usize = count();
/// Classes that there are caches of.
pub(super) const IN_USE: usize = if cfg!(memsvc_loom) { 1 } else { CLASSES };

/// The number of a size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClassId(pub(super) u8);

/// A slab of so many frames has so many places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) frames: u8,
    pub(super) places: u16,
}

/// One size class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    /// Bytes of a place.
    pub(super) size: u16,
    /// The best slab that fits in a chunk of order 0, 1, 2, 3.
    shapes: [Shape; ORDERS],
}

/// All classes, by size.
static TABLE: [Class; CLASSES] = table();
/// The class of a size by its last unit.
static CLASS_OF: [u8; UNITS] = class_of();

const _: () = assert!(CLASSES <= 128);
const _: () = assert!(MAX_FRAMES == 1 << (ORDERS - 1));
const _: () = {
    let classes = table();
    assert!(classes[0].size == 32 && classes[CLASSES - 1].size as usize == FRAME_SIZE);
    let mut at = 0;
    while at < CLASSES {
        let best = classes[at].shapes[ORDERS - 1];
        assert!(best.places as usize <= MAX_PLACES);
        assert!(best.places as usize * classes[at].size as usize <= best.frames as usize * FRAME_SIZE);
        // The tail that no place has is less than 2 %.
        assert!(
            best.places as usize * classes[at].size as usize * 100 >= best.frames as usize * FRAME_SIZE * 98
        );
        at += 1;
    }
};

impl ClassId {
    /// The class of objects of `bytes_less_1 + 1` bytes. The index is in the table for all below 4096,
    /// and the compiler sees it when it comes from 12 bits.
    #[inline]
    pub(super) const fn of(bytes_less_1: u16) -> ClassId {
        ClassId(CLASS_OF[bytes_less_1 as usize / UNIT % UNITS])
    }

    /// All of them; under loom the first only, because each has state.
    pub(super) fn all() -> impl Iterator<Item = ClassId> {
        (0..IN_USE as u8).map(ClassId)
    }

    /// Its description. Numbers beyond the table are the largest class.
    pub(super) fn class(self) -> &'static Class {
        &TABLE[usize::from(self.0).min(CLASSES - 1)]
    }
}

impl Class {
    /// The slab that is wanted.
    pub(super) const fn best(&self) -> Shape {
        self.shapes[ORDERS - 1]
    }

    /// The slab of one frame.
    pub(super) const fn least(&self) -> Shape {
        self.shapes[0]
    }

    /// The next best slab, of a chunk of a lower order; `None` below one frame.
    pub(super) fn worse(&self, than: Shape) -> Option<Shape> {
        let order = than.order().get().checked_sub(1)?;
        Some(self.shapes[usize::from(order)])
    }

    /// Groups of the slab that is wanted; no other slab of this class has more.
    pub(super) const fn groups(&self) -> usize {
        (self.best().places as usize).div_ceil(GROUP)
    }

    /// Bytes of a place in units.
    pub(super) const fn units(&self) -> u64 {
        self.size as u64 / UNIT as u64
    }

    /// Places in a slab of so many frames.
    pub(super) fn places(&self, frames: u8) -> u16 {
        (usize::from(frames) * FRAME_SIZE / usize::from(self.size)).min(MAX_PLACES) as u16
    }
}

impl Shape {
    /// The order of the chunk it is cut from.
    pub(super) fn order(self) -> Order {
        order_of(self.frames)
    }
}

/// The order of the least chunk with so many frames.
pub(super) fn order_of(frames: u8) -> Order {
    let order = frames.max(1).next_power_of_two().trailing_zeros() as u8;
    Order::new(order).unwrap_or(Order::BLOCK)
}

/// Places that may be free when slabs have been squeezed and none is free, all classes of objects of `bytes` and more
/// taken together: in each class one slab of the wanted frames is not full, and one of one frame of the reserve.
pub const fn most_stuck(bytes: usize) -> usize {
    let (mut stuck, mut class) = (0, CLASS_OF[(bytes - 1) / UNIT] as usize);
    while class < CLASSES {
        stuck += TABLE[class].best().places as usize + TABLE[class].least().places as usize - 2;
        class += 1;
    }
    stuck
}

/// The best slab of at most `frames` frames for places of `units` units.
const fn best(units: usize, frames: usize) -> Shape {
    let mut best = Shape { frames: 1, places: places(units, 1) };
    let mut k = 2;
    while k <= frames {
        let places = places(units, k);
        if places as usize * best.frames as usize > best.places as usize * k {
            best = Shape { frames: k as u8, places };
        }
        k += 1;
    }
    best
}

const fn places(units: usize, frames: usize) -> u16 {
    let places = frames * UNITS / units;
    if places > MAX_PLACES { MAX_PLACES as u16 } else { places as u16 }
}

/// True when the size of `units` is the largest of its class.
const fn ends_class(units: usize) -> bool {
    if units < LEAST || units == UNITS {
        return units == UNITS;
    }
    let (this, next) = (best(units, MAX_FRAMES), best(units + 1, MAX_FRAMES));
    this.places as usize * next.frames as usize != next.places as usize * this.frames as usize
}

const fn count() -> usize {
    let (mut classes, mut units) = (0, 1);
    while units <= UNITS {
        classes += ends_class(units) as usize;
        units += 1;
    }
    classes
}

const fn table() -> [Class; CLASSES] {
    let none = Shape { frames: 1, places: 1 };
    let mut table = [Class { size: 0, shapes: [none; ORDERS] }; CLASSES];
    let (mut class, mut units) = (0, 1);
    while units <= UNITS {
        if ends_class(units) {
            table[class].size = (units * UNIT) as u16;
            let mut order = 0;
            while order < ORDERS {
                table[class].shapes[order] = best(units, 1 << order);
                order += 1;
            }
            class += 1;
        }
        units += 1;
    }
    table
}

const fn class_of() -> [u8; UNITS] {
    let mut map = [0; UNITS];
    let (mut class, mut units) = (0, 1);
    while units <= UNITS {
        map[units - 1] = class;
        class += ends_class(units) as u8;
        units += 1;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waste in a full slab of objects of this size, in parts of the slab.
    fn waste(size: usize) -> f64 {
        let class = ClassId::of(size as u16 - 1).class();
        let best = class.best();
        1.0 - (size * usize::from(best.places)) as f64 / (usize::from(best.frames) * FRAME_SIZE) as f64
    }

    #[test]
    fn objects_of_100_to_3500_bytes_pack_well() {
        let sizes = 100..=3500;
        let mean = sizes.clone().map(waste).sum::<f64>() / sizes.clone().count() as f64;
        let worst = sizes.max_by(|a, b| waste(*a).total_cmp(&waste(*b))).unwrap();
        println!(
            "{CLASSES} classes; mean waste {:.2} %, worst {:.2} % at {worst} bytes",
            mean * 100.0,
            waste(worst) * 100.0
        );
        for size in [32, 100, 256, 1500, 3000, 3500] {
            let class = ClassId::of(size as u16 - 1).class();
            println!("{size}: place {}, {:?}, waste {:.2} %", class.size, class.best(), waste(size) * 100.0);
        }
        assert!(mean < 0.02);
        assert!(waste(worst) < 0.12);
    }

    #[test]
    fn an_object_fits_in_the_places_of_its_class_and_not_in_those_of_the_class_below() {
        for size in 1..=FRAME_SIZE {
            let id = ClassId::of(size as u16 - 1);
            assert!(usize::from(id.class().size) >= size);
            if id.0 > 0 {
                assert!(usize::from(ClassId(id.0 - 1).class().size) < size);
            }
        }
    }

    #[test]
    fn every_class_falls_back_to_one_frame() {
        for id in ClassId::all() {
            let class = id.class();
            let mut shape = class.best();
            loop {
                assert!(shape.places >= 1 && shape.places == class.places(shape.frames));
                assert!(usize::from(shape.places).div_ceil(GROUP) <= class.groups());
                match class.worse(shape) {
                    Some(worse) => shape = worse,
                    None => break,
                }
            }
            assert_eq!(shape.frames, 1);
        }
    }
}
