//! What only the model disk can show: every crash, every call failing, and any size without its bytes.

mod crashes;
mod faults;
mod mutations;
mod properties;
