//! A disk that is more than one file: a base and, over it, a child for each snapshot since.
//!
//! A child is as long as its disk and full of holes. What stands in it is stored under the guest's own offsets and **a
//! 512-byte sector of zero bytes is its parent's**: true ciphertext of that form has a chance of 2^-4096. So the file is its
//! own allocation map, which no crash can part from the data, and a write to it is as atomic as the device below: XTS enciphers
//! each 16 bytes by themselves, so a torn data unit is a unit whose sectors are each old or new.
//!
//! A sealed child has a data key of its own (`vmseal.holes="parent"`): two links under one key would show which sectors are
//! equal. A child of a plain disk stores its sectors exclusive-or a mask (`ddb.vmsealMask`), which keeps nothing secret and lets a
//! sector of zeros be told from one that was never written.
//!
//! Who owns a chain (the host agent) says which files belong to it, base first; `parentFileNameHint` is for people and tools.

mod child;
mod disk;
mod flatten;
mod layer;
mod merge;

pub use child::{create_child, set_parent};
pub use disk::ChainDisk;
pub use flatten::flatten;
pub use layer::{Link, check_link};
pub(crate) use layer::{delta_extent, is_child};

/// `createType` of a child: nobody else opens it, because to anybody else its holes would be the guest's zeros.
pub(crate) const DELTA: &str = "vmsealDelta";

/// The line with the seed of a plain child's mask, 32 hexadecimal digits.
const MASK: &str = "ddb.vmsealMask";

/// The unit in which a child is its parent's or its own.
const SECTOR: usize = 512;
