//! The wrapped data key of a disk: making it, and opening it with every check that comes before the first byte of data.

use serde::{Deserialize, Serialize};
use vmseal_secret::SecretKey;
use vmseal_wrap::envelope;
use vmseal_xts::Xts;

use crate::descriptor::{CIPHER, Holes, SealState, Sealed};
use crate::error::{Error, Result};
use crate::transform::refuse_when_wiped;
use crate::uuid;

const TYP: &str = "vmseal-dek";
const CTY: &str = "jwk+json";
const ROLE: &str = "disk";
const HEADER_VERSION: u32 = 1;

/// How to seal a disk: the key-encryption key and everything the wrapped data key is bound to.
#[derive(Debug, Clone, Copy)]
pub struct SealSpec<'a> {
    /// The KEK, 32 bytes.
    pub kek: &'a SecretKey,
    /// The KEK's id as its key provider names it.
    pub kek_id: &'a str,
    /// The key provider's id.
    pub provider_id: &'a str,
    /// UUID of the VM the disk belongs to.
    pub vm_id: [u8; 16],
    /// UUID of the disk.
    pub disk_id: [u8; 16],
    /// Number of the data key: 1 for a new one, one more with each deep recrypt.
    pub generation: u32,
    /// Data unit in bytes: 512 (every tool opens it) or 4096 (less CPU; capacity must be a multiple).
    pub sector_size: u32,
    /// `None`: [`Holes::Zero`] when the source has holes, else [`Holes::Dense`].
    pub holes: Option<Holes>,
}

/// Where the caller says the disk belongs. A wrapped key made for another VM or disk is refused.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// UUID of the VM the disk is opened for.
    pub vm_id: [u8; 16],
    /// UUID of the disk.
    pub disk_id: [u8; 16],
    /// The key provider the key was taken from; `None` leaves this to the key itself.
    pub provider_id: Option<&'a str>,
}

/// Name of the KEK of one wrap. Read from the wrap without a key, so a hint where to look, not a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KekName {
    /// The key provider's id.
    pub provider_id: String,
    /// The KEK's id at that provider.
    pub key_id: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    kid: String,
    typ: String,
    cty: String,
    vmseal: Bound,
}

/// The `vmseal` object of the protected header. Its `kcv` is written and checked by the envelope itself.
#[derive(Serialize, Deserialize)]
struct Bound {
    v: u32,
    role: String,
    id: String,
    vm: String,
    prov: String,
    r#gen: u32,
    cipher: String,
    ss: u32,
    iv0: u64,
    cap: u64,
    holes: String,
}

/// Checks what a caller may get wrong about a new seal. `capacity` in bytes.
pub(crate) fn check_spec(spec: &SealSpec<'_>, capacity: u64) -> Result<()> {
    if !matches!(spec.sector_size, 512 | 4096) {
        return Err(Error::argument("the sector size must be 512 or 4096"));
    }
    if capacity == 0 || !capacity.is_multiple_of(u64::from(spec.sector_size)) {
        return Err(Error::argument(format!(
            "a capacity of {capacity} bytes is not a whole number of {}-byte sectors; use sector size 512",
            spec.sector_size
        )));
    }
    if spec.kek_id.is_empty() || spec.provider_id.is_empty() {
        return Err(Error::argument("the KEK id and the key provider id must not be empty"));
    }
    Ok(())
}

/// Makes a fresh data key for a disk of `capacity` bytes and wraps it.
pub(crate) fn seal(spec: &SealSpec<'_>, capacity: u64, holes: Holes) -> Result<(Xts, Sealed)> {
    let (dek, sealed) = seal_key(spec, capacity, holes)?;
    Ok((Xts::new(&dek, spec.sector_size, tweak_step(spec.sector_size))?, sealed))
}

/// As [`seal`], for whoever makes more than one cipher from the key.
pub(crate) fn seal_key(spec: &SealSpec<'_>, capacity: u64, holes: Holes) -> Result<(SecretKey, Sealed)> {
    let dek = SecretKey::generate(64)?;
    let wrap = wrap_key(&dek, spec, capacity, holes)?;
    let sealed = Sealed {
        id: spec.disk_id,
        state: SealState::Sealed,
        sector_size: spec.sector_size,
        holes,
        generation: spec.generation,
        wraps: vec![wrap],
        other: Vec::new(),
    };
    Ok((dek, sealed))
}

/// Wraps a data key, new or old, and binds it to everything `spec` says.
pub(crate) fn wrap_key(dek: &SecretKey, spec: &SealSpec<'_>, capacity: u64, holes: Holes) -> Result<String> {
    let header = Header {
        kid: spec.kek_id.to_owned(),
        typ: TYP.to_owned(),
        cty: CTY.to_owned(),
        vmseal: Bound {
            v: HEADER_VERSION,
            role: ROLE.to_owned(),
            id: uuid::format(&spec.disk_id),
            vm: uuid::format(&spec.vm_id),
            prov: spec.provider_id.to_owned(),
            r#gen: spec.generation,
            cipher: CIPHER.to_owned(),
            ss: spec.sector_size,
            iv0: 0,
            cap: capacity / 512,
            holes: holes.as_str().to_owned(),
        },
    };
    let header =
        serde_json::to_string(&header).map_err(|error| Error::Internal { reason: error.to_string() })?;
    let wrap = envelope::seal(spec.kek, dek, &header)?;
    refuse_when_wiped()?;
    Ok(wrap)
}

/// Opens the first wrap that `kek` opens and that belongs to this very disk. `capacity` in bytes, of the extent.
pub(crate) fn open(sealed: &Sealed, capacity: u64, kek: &SecretKey, binding: &Binding<'_>) -> Result<Xts> {
    let dek = open_key(sealed, capacity, kek, binding)?;
    let xts = Xts::new(&dek, sealed.sector_size, tweak_step(sealed.sector_size))?;
    refuse_when_wiped()?;
    Ok(xts)
}

/// As [`open`], for whoever makes more than one cipher from the key.
pub(crate) fn open_key(
    sealed: &Sealed,
    capacity: u64,
    kek: &SecretKey,
    binding: &Binding<'_>,
) -> Result<SecretKey> {
    if sealed.id != binding.disk_id {
        return Err(Error::EnvelopeMismatch { field: "disk id (vmseal.id)" });
    }
    let mut failure: Option<Error> = None;
    for wrap in &sealed.wraps {
        match open_wrap(wrap, sealed, capacity, kek, binding) {
            Ok(key) => return Ok(key),
            // A wrap that opened and names another place says more than one that another key would open.
            Err(error) => match &failure {
                Some(first) if !matches!(first, Error::Wrap(vmseal_wrap::Error::EnvelopeAuthentication)) => {}
                _ => failure = Some(error),
            },
        }
    }
    Err(failure.unwrap_or_else(|| Error::descriptor("it carries no wrapped key")))
}

/// The KEK each wrap asks for, in order; wraps that cannot be read are left out.
pub(crate) fn kek_names(sealed: &Sealed) -> Vec<KekName> {
    sealed.wraps.iter().filter_map(|wrap| kek_name(wrap)).collect()
}

/// The KEK that a wrap asks for; `None` when the wrap cannot be read.
pub(crate) fn kek_name(wrap: &str) -> Option<KekName> {
    let header: Header = serde_json::from_str(&envelope::inspect(wrap).ok()?).ok()?;
    Some(KekName { provider_id: header.vmseal.prov, key_id: header.kid })
}

/// Opens one wrap, with every check of [`open_key`].
pub(crate) fn open_wrap(
    wrap: &str,
    sealed: &Sealed,
    capacity: u64,
    kek: &SecretKey,
    binding: &Binding<'_>,
) -> Result<SecretKey> {
    let (dek, header) = envelope::open(kek, wrap)?;
    let Ok(Header { typ, cty, vmseal: bound, .. }) = serde_json::from_str::<Header>(&header) else {
        return Err(Error::EnvelopeMismatch { field: "header (a field is missing or of another type)" });
    };
    let checks = [
        ("kind (typ, cty)", typ == TYP && cty == CTY),
        ("version (v)", bound.v == HEADER_VERSION),
        ("role", bound.role == ROLE),
        ("disk id", bound.id == uuid::format(&sealed.id) && sealed.id == binding.disk_id),
        ("VM id", bound.vm == uuid::format(&binding.vm_id)),
        ("key provider", binding.provider_id.is_none_or(|id| id == bound.prov)),
        ("generation", bound.r#gen == sealed.generation),
        ("cipher", bound.cipher == CIPHER),
        ("sector size", bound.ss == sealed.sector_size),
        ("first tweak (iv0)", bound.iv0 == 0),
        ("capacity", capacity.is_multiple_of(u64::from(bound.ss.max(1))) && bound.cap == capacity / 512),
        ("hole rule", bound.holes == sealed.holes.as_str()),
    ];
    if let Some((field, _)) = checks.iter().find(|(_, holds)| !holds) {
        return Err(Error::EnvelopeMismatch { field });
    }
    refuse_when_wiped()?;
    Ok(dek)
}

/// Tweaks count 512-byte sectors whatever the data unit, as dm-crypt and LUKS2 do.
pub(crate) fn tweak_step(sector_size: u32) -> u64 {
    u64::from(sector_size / 512)
}
