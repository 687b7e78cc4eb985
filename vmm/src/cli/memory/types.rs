//! `aerostat memory types`: free chunks by migrate type, frames by page type, and who is charged.

use std::fmt::Write;

use memsvc::{
    core::{page_type::PageType, units::Order},
    stats::{ChargeInfo, MigrateTypeInfo, TypeInfo},
};

use super::{
    super::table::{self, Column, grouped},
    amount::{blocks, frames},
};
use crate::api::types::{by_page_type, owner_name};

/// What `GET /memory/types` says.
pub(super) fn human(info: &TypeInfo) -> String {
    let mut text = free_chunks(&info.migrate_types);
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\nWhole free blocks, of no migrate type: {} ({})\n",
        grouped(info.whole_free_blocks),
        blocks(info.whole_free_blocks)
    );
    text.push_str(&page_types(info));
    text.push('\n');
    text.push_str(&charges(&info.charges));
    text
}

/// Migrate type by order.
fn free_chunks(types: &[MigrateTypeInfo]) -> String {
    let orders: Vec<_> = Order::all().map(|order| order.to_string()).collect();
    let mut header = vec![Column::Left("free chunks by order"), Column::Right("blocks")];
    header.extend(orders.iter().map(|order| Column::Right(order)));
    let rows: Vec<_> = types
        .iter()
        .map(|of| {
            let mut row = vec![of.migrate_type.name().to_owned(), grouped(of.blocks)];
            row.extend(of.free_chunks.iter().map(|&chunks| grouped(chunks)));
            row
        })
        .collect();
    table::columns(&header, &rows)
}

fn page_types(info: &TypeInfo) -> String {
    let header = [Column::Left("page type"), Column::Right("frames"), Column::Right("memory")];
    let types = by_page_type(&info.frames_by_type);
    let in_all = types.iter().map(|(_, count)| count).sum();
    let named = types.map(|(page_type, count)| (page_type.name(), count));
    let rows: Vec<_> = named
        .into_iter()
        .chain([("in all", in_all)])
        .map(|(name, count)| vec![name.to_owned(), grouped(count), frames(count)])
        .collect();
    table::columns(&header, &rows)
}

fn charges(charges: &[ChargeInfo]) -> String {
    if charges.is_empty() {
        return "Nobody is charged.\n".to_owned();
    }
    let charged = PageType::ALL.into_iter().filter(|of| of.is_charged());
    let mut header = ["charged", "memory", "limit", "refused"].map(Column::Right).to_vec();
    header.insert(0, Column::Left("owner"));
    header.extend(charged.map(|of| Column::Right(of.name())));
    let rows: Vec<_> = charges
        .iter()
        .map(|charge| {
            let mut row = vec![
                owner_name(charge.owner).into_owned(),
                grouped(charge.charged),
                frames(charge.charged),
                charge.limit.map_or("none".to_owned(), frames),
                grouped(charge.refused),
            ];
            let by_type = by_page_type(&charge.frames).into_iter().filter(|(of, _)| of.is_charged());
            row.extend(by_type.map(|(_, count)| grouped(count)));
            row
        })
        .collect();
    table::columns(&header, &rows)
}

#[cfg(test)]
mod tests {
    use memsvc::{core::migrate_type::MigrateType, stats::FramesByType};

    use super::*;

    #[test]
    fn frames_add_up_and_owners_have_names() {
        let guest = ChargeInfo {
            owner: 1,
            frames: FramesByType { guest: 1536, balloon: 512, ..FramesByType::default() },
            charged: 2048,
            limit: Some(4096),
            refused: 3,
        };
        let text = human(&TypeInfo {
            migrate_types: vec![MigrateTypeInfo {
                migrate_type: MigrateType::Movable,
                blocks: 2,
                free_chunks: vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
            }],
            whole_free_blocks: 1000,
            frames_by_type: FramesByType { buddy: 513_024, slab: 64, ..guest.frames.clone() },
            charges: vec![ChargeInfo { charged: 64, ..ChargeInfo::default() }, guest],
        });
        for line in [
            "free chunks by order  blocks  0  1  2  3  4  5  6  7  8  9",
            "movable                    2  1  2  3  4  5  6  7  8  9  0",
            "Whole free blocks, of no migrate type: 1,000 (2,000 MiB)",
            "buddy         513,024  2,004 MiB",
            "in all        515,136  2,012 MiB",
            "owner    charged   memory   limit  refused  stash  guest  balloon  return  kmem  slab  movable_slab",
            "monitor       64  0.2 MiB    none        0      0      0        0       0     0     0             0",
            "guest      2,048    8 MiB  16 MiB        3      0  1,536      512       0     0     0             0",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
    }
}
