//! Devices by name.

use burn::tensor::Device;

/// A device that this program cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Nothing is called that.
    #[error("no device is called `{name}`{hint}; known: cpu, ndarray")]
    Unknown {
        /// The name.
        name: String,
        /// The nearest name, if one is near.
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

const NAMES: [&str; 2] = ["cpu", "ndarray"];

/// The device called `name`: `cpu` (Burn's Flex backend) or `ndarray`.
///
/// # Errors
/// If nothing is called that, or it is not compiled in; the message names the feature that brings it.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match name {
        #[cfg(feature = "flex")]
        "cpu" => Ok(Device::flex()),
        #[cfg(not(feature = "flex"))]
        "cpu" => Err(DeviceError::NotCompiled { name: name.to_owned(), feature: "flex" }),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "Burn has deprecated its NdArray backend, which stays selectable")]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(not(feature = "ndarray"))]
        "ndarray" => Err(DeviceError::NotCompiled { name: name.to_owned(), feature: "ndarray" }),
        _ => {
            let near = NAMES.into_iter().find(|known| strsim::jaro_winkler(known, name) > 0.8);
            let hint = near.map(|known| format!(" (did you mean `{known}`?)")).unwrap_or_default();
            Err(DeviceError::Unknown { name: name.to_owned(), hint })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_gets_the_nearest_name() {
        let error = device("ndaray").unwrap_err();
        assert_eq!(error.to_string(), "no device is called `ndaray` (did you mean `ndarray`?); known: cpu, ndarray");
        assert_eq!(device("tpu").unwrap_err().to_string(), "no device is called `tpu`; known: cpu, ndarray");
    }
}
