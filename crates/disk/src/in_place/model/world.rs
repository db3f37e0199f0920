//! A small disk with everything a job needs: contents before and after, texts, a cipher that costs nothing.
//!
//! Only cipher and hashes stand in for the real ones; storage calls, their order, records and journal are the engine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::crash::Random;
use super::explore::Explored;
use super::{Image, ModelDisk, NAMES, Name, Planted, Rule};
use crate::control::Control;
use crate::descriptor::Holes;
use crate::error::{Error, Result};
use crate::in_place::JobMode;
use crate::in_place::engine::Settings;
use crate::in_place::lifecycle::{Texts, finish, publish, remove, repair_zone, start};
use crate::in_place::record::{Record, Slot};
use crate::in_place::sidecar::{Layout, read_plan, read_slot};
use crate::in_place::storage::{Storage as _, failed, read_exact};
use crate::in_place::suite::{Forms, Sum};

pub(crate) const UNIT: usize = 16;

/// Bytes a slot and a header take in the model: room for all fields and a few runs.
const SLOT: usize = 176;
const HEADER: usize = 88 + 4 * 12 + 64;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) mode: JobMode,
    pub(crate) holes: Holes,
    /// In units of 16 bytes.
    pub(crate) units: usize,
    pub(crate) zone_units: usize,
    pub(crate) piece_units: usize,
    pub(crate) seed: u64,
    pub(crate) planted: Planted,
    pub(crate) areas: u64,
}

pub(crate) struct World {
    settings: Settings,
    record: Record,
    forms: ModelForms,
    old: Vec<u8>,
    new: Vec<u8>,
    plan: Vec<u8>,
    before: Texts,
    during: Texts,
    after: Texts,
    rule: Rule,
    violated: Arc<AtomicBool>,
    seed: u64,
}

impl World {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut random = Random::new(shape.seed);
        let mut plain: Vec<u8> = (0..shape.units * UNIT).map(|_| random.next() as u8 | 1).collect();
        if shape.holes == Holes::Zero {
            for unit in plain.chunks_mut(UNIT) {
                if random.below(3) == 0 {
                    unit.fill(0);
                }
            }
        }
        let forms = ModelForms::new(shape.mode, shape.holes);
        let sealed = |key: u8| {
            let mut bytes = plain.clone();
            for (index, unit) in bytes.chunks_mut(UNIT).enumerate() {
                if shape.holes == Holes::Dense || unit.iter().any(|&byte| byte != 0) {
                    shift(unit, index * UNIT, key, false);
                }
            }
            bytes
        };
        let (old, new) = match shape.mode {
            JobMode::Encrypt => (plain.clone(), sealed(2)),
            JobMode::Decrypt => (sealed(1), plain.clone()),
            JobMode::Recrypt => (sealed(1), sealed(2)),
        };
        let text = |name: &str, sealed: bool| Texts {
            descriptor: name.as_bytes().to_vec(),
            copy: sealed.then(|| format!("copy of {name}").into_bytes()),
        };
        let plan = b"the plan".to_vec();
        let record = Record {
            mode: shape.mode,
            holes: shape.holes,
            unit: UNIT as u32,
            job: [7; 16],
            disk: [8; 16],
            capacity: (shape.units * UNIT) as u64,
            zone: (shape.zone_units * UNIT) as u32,
            plan_len: plan.len() as u32,
            plan_sum: Mix::sum(&plan),
        };
        let layout = Layout {
            slot: SLOT,
            header: HEADER,
            piece: shape.piece_units * UNIT,
            areas: shape.areas,
            hole_grain: UNIT as u64,
        };
        let violated = Arc::new(AtomicBool::new(false));
        let rule = rule(shape.mode, plain, old.clone(), new.clone(), Arc::clone(&violated));
        Self {
            settings: Settings { layout, workers: 1, planted: shape.planted },
            record,
            forms,
            before: text("before", shape.mode != JobMode::Encrypt),
            during: text("during", true),
            after: text("after", shape.mode != JobMode::Decrypt),
            old,
            new,
            plan,
            rule,
            violated,
            seed: shape.seed,
        }
    }
}

impl Explored for World {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn untouched(&self) -> Image {
        let mut files = [const { None }; NAMES];
        files[Name::Descriptor as usize] = Some(self.before.descriptor.clone());
        files[Name::Copy as usize] = self.before.copy.clone();
        files[Name::Flat as usize] = Some(self.old.clone());
        Image { files }
    }

    fn disk(&self, image: &Image, record: bool) -> ModelDisk {
        let mut disk = ModelDisk::new(image, Some(Arc::clone(&self.rule)), record);
        disk.open(Name::Flat).expect("the flat file stays");
        disk
    }

    fn go_on(&self, disk: &mut ModelDisk) -> Result<()> {
        disk.open(Name::Descriptor).map_err(failed(disk, "open", Name::Descriptor))?;
        let len = disk.len(Name::Descriptor).map_err(failed(disk, "examine", Name::Descriptor))?;
        let mut standing = vec![0; len as usize];
        read_exact(disk, Name::Descriptor, &mut standing, 0)?;
        let layout = self.settings.layout;
        let slot = if standing == self.before.descriptor {
            let begun =
                |disk: &ModelDisk| disk.content(Name::Descriptor) != Some(self.before.descriptor.clone());
            let record = (&self.record, self.plan.as_slice());
            start::<_, _, Mix>(disk, layout, &self.forms, record, (&self.before, &self.during), begun)?
        } else if standing == self.during.descriptor {
            disk.open(Name::Sidecar).map_err(failed(disk, "open", Name::Sidecar))?;
            let (slot, mac) = read_slot::<_, Mix>(disk, layout)?;
            let plan = read_plan::<_, Mix>(disk, layout, &slot)?;
            if self.forms.mac(&slot.authenticated(layout.slot))? != mac || plan != self.plan {
                return Err(Error::JobAuthentication { path: disk.path(Name::Sidecar).to_owned() });
            }
            publish(disk, &self.during)?;
            slot
        } else if disk.open(Name::Sidecar).is_ok() {
            publish(disk, &self.after)?;
            return remove(disk, Name::Sidecar);
        } else {
            return Ok(());
        };
        finish::<_, _, Mix>(disk, &self.forms, self.settings, slot, &self.after, &Control::new())
    }

    /// When the descriptor speaks of a job.
    fn repair(&self, disk: &mut ModelDisk) -> Result<bool> {
        if disk.content(Name::Descriptor) != Some(self.during.descriptor.clone()) {
            return Ok(false);
        }
        disk.open(Name::Sidecar).map_err(failed(disk, "open", Name::Sidecar))?;
        repair_zone::<_, Mix>(disk, self.settings.layout).map(|_| true)
    }

    /// Wholly old, wholly new, or the new form up to the frontier and
    /// the old one after the zone in flight. And nobody wrote plaintext where it must not be.
    fn check_at_rest(&self, image: &Image) -> Result<(), String> {
        let file = |name: Name| image.files[name as usize].as_deref();
        let flat = file(Name::Flat).ok_or("the data is gone")?;
        let descriptor = file(Name::Descriptor).ok_or("the descriptor is gone")?;
        if descriptor == self.before.descriptor {
            return (flat == self.old).then_some(()).ok_or_else(|| "not the old form".to_owned());
        }
        if descriptor == self.after.descriptor {
            return (flat == self.new).then_some(()).ok_or_else(|| "not the new form".to_owned());
        }
        if descriptor != self.during.descriptor {
            return Err("a torn descriptor".to_owned());
        }
        let sidecar = file(Name::Sidecar).ok_or("the sidecar is gone")?;
        let slots = sidecar.chunks(SLOT).take(2).zip(0..);
        let slots = slots.filter_map(|(bytes, index)| Slot::decode::<Mix>(bytes, index));
        let slot = slots.map(|(slot, _)| slot).max_by_key(|slot| slot.sequence).ok_or("no slot is whole")?;
        let frontier = slot.frontier as usize;
        if flat[..frontier] != self.new[..frontier] {
            return Err(format!("old or damaged bytes below the frontier {frontier}"));
        }
        Ok(())
    }

    fn check_done(&self, disk: &ModelDisk) -> Result<(), String> {
        let expected = |name, bytes: Option<&[u8]>| {
            let holds = disk.content(name).as_deref() == bytes;
            holds.then_some(()).ok_or_else(|| format!("{name:?} is not what it should be at the end"))
        };
        expected(Name::Flat, Some(&self.new))?;
        expected(Name::Descriptor, Some(&self.after.descriptor))?;
        expected(Name::Sidecar, None)?;
        if self.violated.load(Ordering::Relaxed) {
            return Err("plaintext was written".to_owned());
        }
        Ok(())
    }
}

/// In place: the new form, or the old one where it is put back on decryption. In the sidecar: no unit of plaintext.
fn rule(mode: JobMode, plain: Vec<u8>, old: Vec<u8>, new: Vec<u8>, violated: Arc<AtomicBool>) -> Rule {
    let secret: Vec<Vec<u8>> = plain
        .chunks(UNIT)
        .filter(|unit| unit.iter().any(|&byte| byte != 0))
        .flat_map(|unit| unit.chunks(UNIT / 2).map(<[u8]>::to_vec))
        .collect();
    Arc::new(move |name, bytes, offset| {
        let at = offset as usize;
        let allowed = match name {
            Name::Flat => {
                let is = |form: &[u8]| form.get(at..at + bytes.len()) == Some(bytes);
                is(&new) || (mode == JobMode::Decrypt && is(&old))
            }
            Name::Sidecar => !bytes.chunks(UNIT / 2).any(|half| secret.iter().any(|secret| secret == half)),
            _ => true,
        };
        if !allowed {
            violated.store(true, Ordering::Relaxed);
        }
    })
}

/// A cipher for tests of order: it must not undo itself when applied twice.
pub(crate) struct ModelForms {
    mode: JobMode,
    holes: Holes,
}

fn shift(unit: &mut [u8], offset: usize, key: u8, back: bool) {
    for (byte, at) in unit.iter_mut().zip(offset..) {
        let add = (at as u8).wrapping_mul(29).wrapping_add(key.wrapping_mul(87)) | 2;
        *byte = if back { byte.wrapping_sub(add) } else { byte.wrapping_add(add) };
    }
}

impl ModelForms {
    pub(crate) fn new(mode: JobMode, holes: Holes) -> Self {
        Self { mode, holes }
    }
}

impl Forms for ModelForms {
    fn mode(&self) -> JobMode {
        self.mode
    }

    fn convert(&self, data: &mut [u8], offset: u64) -> Result<()> {
        for (index, unit) in data.chunks_mut(UNIT).enumerate() {
            let at = offset as usize + index * UNIT;
            if self.holes == Holes::Zero && unit.iter().all(|&byte| byte == 0) {
                continue;
            }
            if self.mode != JobMode::Encrypt {
                shift(unit, at, 1, true);
            }
            if self.mode != JobMode::Decrypt {
                shift(unit, at, 2, false);
            }
        }
        Ok(())
    }

    fn mac(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let mut sum = Mix::sum(bytes);
        sum.iter_mut().for_each(|byte| *byte = byte.wrapping_add(0x55));
        Ok(sum)
    }
}

/// A fast stand-in for SHA-256: tells torn from whole.
pub(crate) struct Mix;

impl Sum for Mix {
    fn sum(bytes: &[u8]) -> [u8; 32] {
        let mut hash = 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        let mut sum = [0x5a; 32];
        sum[..8].copy_from_slice(&(hash ^ hash >> 31).to_le_bytes());
        sum
    }
}
