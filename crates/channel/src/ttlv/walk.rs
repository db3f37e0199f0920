//! One pass over a message: its structure is checked and the places of its secret byte strings are found.

use super::{HEADER, Limits};
use crate::Error;

pub(super) const STRUCTURE: u8 = 0x01;
const BIG_INTEGER: u8 = 0x04;
const ENUMERATION: u8 = 0x05;
const BYTE_STRING: u8 = 0x08;

// Tags: KMIP 1.1 section 9.1.3.1.
const KEY: u32 = 0x42_003F;
const KEY_BLOCK: u32 = 0x42_0040;
const KEY_MATERIAL: u32 = 0x42_0043;
const KEY_VALUE: u32 = 0x42_0045;
const KEY_WRAPPING_DATA: u32 = 0x42_0046;
const WRAPPING_METHOD: u32 = 0x42_009E;

/// A secret byte string of a message.
pub(super) struct Place {
    /// Where its header starts.
    pub(super) header: usize,
    /// Its length without padding; 0 when the key was taken out.
    pub(super) length: usize,
    /// Index of the structure it stands in.
    parent: u32,
    /// Index of the key block whose key value holds it.
    block: Option<u32>,
}

impl Place {
    /// Where its value starts.
    pub(super) fn value(&self) -> usize {
        self.header + HEADER
    }
}

struct Structure {
    header: usize,
    parent: Option<u32>,
}

/// The secret places of a well-formed message in order of appearance, and the structures around them.
pub(super) struct Layout {
    structures: Vec<Structure>,
    pub(super) places: Vec<Place>,
}

impl Layout {
    /// For every structure around a place: where its header stands and by how many bytes its length changes when each
    /// place grows or shrinks by what `padded` says. Sorted by position.
    pub(super) fn changes(&self, padded: impl Fn(usize, &Place) -> usize) -> Vec<(usize, usize)> {
        let mut changes = std::collections::BTreeMap::new();
        for (index, place) in self.places.iter().enumerate() {
            let mut around = Some(place.parent);
            while let Some(structure) = around.and_then(|index| self.structures.get(index as usize)) {
                *changes.entry(structure.header).or_insert(0) += padded(index, place);
                around = structure.parent;
            }
        }
        changes.into_iter().collect()
    }
}

/// Length of a value with its padding.
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// Walks `message`, which must be exactly one structure.
///
/// Secret are: a KeyMaterial byte string; every byte string and big integer inside a KeyMaterial structure
/// (transparent keys, KMIP 1.1 section 2.1.7; public parts are taken along, which does no harm); a KeyValue byte
/// string; and a Key byte string wherever it stands. What a KeyValue holds is not secret when its key block has
/// KeyWrappingData whose wrapping method encrypts (section 2.1.5); "MAC/sign" alone does not.
pub(super) fn walk(message: &[u8], limits: &Limits) -> Result<Layout, Error> {
    if message.len() > limits.max_message {
        return Err(Error::TooLarge { what: "bytes", actual: message.len(), limit: limits.max_message });
    }
    let mut walk =
        Walk { message, limits, items: 0, structures: Vec::new(), blocks: Vec::new(), places: Vec::new() };
    let root = walk.item(0, message.len())?;
    if root.kind != STRUCTURE {
        return malformed(3, "a message must be a structure");
    }
    if root.end() != message.len() {
        return malformed(root.end(), "bytes follow the message");
    }
    let surroundings = Surroundings { parent: None, depth: 0, block: None, in_material: false };
    walk.structure(&root, surroundings)?;

    let Walk { structures, blocks, mut places, .. } = walk;
    places.retain(|place| {
        let wrapped = place.block.is_some_and(|block| blocks[block as usize] == Wrapping::Encrypted);
        !wrapped
    });
    if places.len() > limits.max_keys {
        return Err(Error::TooLarge { what: "keys", actual: places.len(), limit: limits.max_keys });
    }
    Ok(Layout { structures, places })
}

fn malformed<T>(offset: usize, reason: &'static str) -> Result<T, Error> {
    Err(Error::Malformed { offset, reason })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    None,
    Encrypted,
    SignedOnly,
}

struct Item {
    header: usize,
    tag: u32,
    kind: u8,
    length: usize,
}

impl Item {
    fn value(&self) -> usize {
        self.header + HEADER
    }

    fn end(&self) -> usize {
        self.value() + padded(self.length)
    }
}

#[derive(Clone, Copy)]
struct Surroundings {
    parent: Option<u32>,
    depth: usize,
    /// The key block in whose key value we are.
    block: Option<u32>,
    in_material: bool,
}

struct Walk<'m> {
    message: &'m [u8],
    limits: &'m Limits,
    items: usize,
    structures: Vec<Structure>,
    blocks: Vec<Wrapping>,
    places: Vec<Place>,
}

impl Walk<'_> {
    /// Reads the header at `header` of an item that must end by `end`.
    fn item(&mut self, header: usize, end: usize) -> Result<Item, Error> {
        self.items += 1;
        if self.items > self.limits.max_items {
            return Err(Error::TooLarge { what: "items", actual: self.items, limit: self.limits.max_items });
        }
        let Some(bytes) = self.message.get(header..end).and_then(|rest| rest.first_chunk::<HEADER>()) else {
            return malformed(header, "the item header is cut short");
        };
        let tag = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        if !matches!(bytes[0], 0x42 | 0x54) {
            return malformed(header, "the tag is neither a KMIP tag (42xxxx) nor an extension (54xxxx)");
        }
        let kind = bytes[3];
        let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let lawful = match kind {
            STRUCTURE | BIG_INTEGER => length.is_multiple_of(8),
            0x02 | ENUMERATION | 0x0A => length == 4,
            0x03 | 0x06 | 0x09 | 0x0B => length == 8,
            // Text and byte strings, and the identifiers and references of KMIP 3.0.
            0x07 | BYTE_STRING | 0x0C..=0x0E => true,
            _ => return malformed(header + 3, "unknown item type"),
        };
        if !lawful {
            return malformed(header + 4, "the length does not fit the item type");
        }
        if length.checked_next_multiple_of(8).is_none_or(|padded| padded > end - header - HEADER) {
            return malformed(header + 4, "the item is longer than the structure around it");
        }
        Ok(Item { header, tag, kind, length })
    }

    fn structure(&mut self, structure: &Item, around: Surroundings) -> Result<(), Error> {
        let depth = around.depth + 1;
        if depth > self.limits.max_depth {
            return Err(Error::TooLarge { what: "levels", actual: depth, limit: self.limits.max_depth });
        }
        let index = self.structures.len() as u32;
        self.structures.push(Structure { header: structure.header, parent: around.parent });
        let inside = Surroundings { parent: Some(index), depth, ..around };

        let own_block = (structure.tag == KEY_BLOCK).then(|| {
            self.blocks.push(Wrapping::None);
            self.blocks.len() as u32 - 1
        });
        let mut next = structure.value();
        while next < structure.end() {
            let child = self.item(next, structure.end())?;
            next = child.end();
            // Inside a key block only its key value is under the protection of its wrapping.
            let inside = match own_block {
                Some(block) => Surroundings { block: (child.tag == KEY_VALUE).then_some(block), ..inside },
                None => inside,
            };
            if let (Some(block), KEY_WRAPPING_DATA) = (own_block, child.tag) {
                self.wrapping(block, &child)?;
            }
            self.child(&child, inside)?;
        }
        Ok(())
    }

    fn child(&mut self, child: &Item, inside: Surroundings) -> Result<(), Error> {
        let secret = match (child.tag, child.kind) {
            (KEY_MATERIAL, STRUCTURE) => {
                return self.structure(child, Surroundings { in_material: true, ..inside });
            }
            (_, STRUCTURE) => return self.structure(child, inside),
            (KEY_MATERIAL | KEY_VALUE | KEY, BYTE_STRING) => true,
            (KEY_MATERIAL | KEY_VALUE, _) => {
                return malformed(child.header + 3, "key material must be a byte string or a structure");
            }
            (_, BYTE_STRING | BIG_INTEGER) => inside.in_material,
            _ => false,
        };
        if let (true, Some(parent)) = (secret, inside.parent) {
            self.places.push(Place {
                header: child.header,
                length: child.length,
                parent,
                block: inside.block,
            });
        } else if child.kind == BIG_INTEGER && child.length == 0 {
            return malformed(child.header + 4, "the length does not fit the item type");
        }
        Ok(())
    }

    /// Notes what the KeyWrappingData of a key block does. Its contents are walked like any others afterwards.
    fn wrapping(&mut self, block: u32, data: &Item) -> Result<(), Error> {
        let wrapping = &mut self.blocks[block as usize];
        if *wrapping != Wrapping::None {
            return malformed(data.header, "a key block has two key wrapping data");
        }
        *wrapping = Wrapping::SignedOnly;
        if data.kind != STRUCTURE {
            return malformed(data.header + 3, "key wrapping data must be a structure");
        }
        let mut next = data.value();
        while next < data.end() {
            // The header is read again when the structure is walked: it must not count twice.
            let items = self.items;
            let child = self.item(next, data.end())?;
            self.items = items;
            next = child.end();
            if child.tag == WRAPPING_METHOD && child.kind == ENUMERATION {
                // Encrypt, Encrypt then MAC/sign, MAC/sign then encrypt, TR-31; not 2, MAC/sign.
                self.blocks[block as usize] = match self.message[child.value()..child.value() + 4] {
                    [0, 0, 0, 1 | 3 | 4 | 5] => Wrapping::Encrypted,
                    _ => Wrapping::SignedOnly,
                };
                break;
            }
        }
        Ok(())
    }
}
