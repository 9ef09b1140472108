//! Devices by name.

use burn::tensor::Device;

/// A device that this program cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Nothing is called that.
    #[error("no device is called `{name}`{hint}; known: {}", names())]
    Unknown {
        /// The name.
        name: String,
        /// The nearest name, or what else helps.
        hint: String,
    },
    /// The device exists but was left out of this program.
    #[error("device `{name}` is not compiled into this program; build it with `--features {feature}`")]
    NotCompiled {
        /// The name.
        name: String,
        /// The feature that brings it.
        feature: &'static str,
    },
}

/// A device: its name, the feature that brings it, and how to get it if that feature is on.
struct Known {
    name: &'static str,
    feature: &'static str,
    open: Option<fn() -> Device>,
}

const KNOWN: [Known; 2] =
    [Known { name: "cpu", feature: "flex", open: FLEX }, Known { name: "ndarray", feature: "ndarray", open: NDARRAY }];

#[cfg(feature = "flex")]
const FLEX: Option<fn() -> Device> = Some(Device::flex);
#[cfg(not(feature = "flex"))]
const FLEX: Option<fn() -> Device> = None;

#[cfg(feature = "ndarray")]
#[allow(deprecated, reason = "Burn has deprecated its NdArray backend, which stays selectable")]
const NDARRAY: Option<fn() -> Device> = Some(Device::ndarray);
#[cfg(not(feature = "ndarray"))]
const NDARRAY: Option<fn() -> Device> = None;

/// Names of graphics processors' backends, to tell a user that they are not here rather than unheard of.
const GRAPHICS: [&str; 5] = ["wgpu", "vulkan", "metal", "cuda", "rocm"];

fn names() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

/// The device called `name`: `cpu` (Burn's Flex backend) or `ndarray`.
///
/// ```
/// assert!(experiments::device::device("cpu").is_ok());
/// ```
///
/// # Errors
/// If nothing is called that, or it is not compiled in; the message names the feature that brings it.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    find(name, &KNOWN)
}

fn find(name: &str, known: &[Known]) -> Result<Device, DeviceError> {
    let Some(found) = known.iter().find(|known| known.name == name) else {
        let near = known.iter().find(|known| strsim::jaro_winkler(known.name, name) > 0.8);
        let kind = name.split(':').next().unwrap_or_default();
        let hint = match near {
            Some(near) => format!(" (did you mean `{}`?)", near.name),
            None if GRAPHICS.contains(&kind) => " (this version runs on processors only)".to_owned(),
            None => String::new(),
        };
        return Err(DeviceError::Unknown { name: name.to_owned(), hint });
    };
    let missing = || DeviceError::NotCompiled { name: name.to_owned(), feature: found.feature };
    found.open.map(|open| open()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_gets_the_nearest_name() {
        let message = |name| device(name).unwrap_err().to_string();
        assert_eq!(message("ndaray"), "no device is called `ndaray` (did you mean `ndarray`?); known: cpu, ndarray");
        assert_eq!(message("tpu"), "no device is called `tpu`; known: cpu, ndarray");
        assert_eq!(
            message("cuda:0"),
            "no device is called `cuda:0` (this version runs on processors only); known: cpu, ndarray"
        );
    }

    #[test]
    fn a_device_left_out_names_the_feature_that_brings_it() {
        let without = [Known { name: "ndarray", feature: "ndarray", open: None }];
        let message = find("ndarray", &without).unwrap_err().to_string();
        assert_eq!(message, "device `ndarray` is not compiled into this program; build it with `--features ndarray`");
    }
}
