//! What only the model disk can show: every crash, and every call failing.

mod crashes;
mod faults;
