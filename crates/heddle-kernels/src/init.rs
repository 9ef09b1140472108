//! Initial parameters, drawn on the host.

use burn::module::{Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A source of initial parameters: one random stream and the device they go to.
///
/// The numbers are drawn on the host, in the order of the calls, so that a seed gives the same parameters on every
/// device and in every thread. (Burn's own initialisers share one process-wide stream and draw at first use.)
///
/// ```
/// use heddle_kernels::Init;
/// let device = burn::tensor::Device::flex();
/// let draw = |seed| Init::new(seed, &device).normal([2, 3], 0.02).val().into_data();
/// assert_eq!(draw(7), draw(7));
/// assert_ne!(draw(7), draw(8));
/// ```
#[derive(Debug)]
pub struct Init {
    rng: ChaCha8Rng,
    device: Device,
    /// Whether parameters get numbers of their own.
    fills: bool,
}

impl Init {
    /// A stream from `seed` for parameters on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), device: device.clone(), fills: true }
    }

    /// A source of parameters that have their shapes and no numbers: each is one zero, seen as often as its shape says.
    ///
    /// A model built from it takes next to no memory, however large it is; where its parameters are used all the same, it
    /// takes a device that can repeat an element (Burn's Flex can). It is there to be measured, or to be given the numbers of a
    /// file, not to be trained.
    ///
    /// ```
    /// use burn::{module::Module, tensor::Device};
    /// use heddle_kernels::Init;
    /// let map = Init::outline(&Device::flex()).linear(1 << 20, 1 << 20, false);
    /// assert_eq!(map.num_params(), 1 << 40);
    /// ```
    pub fn outline(device: &Device) -> Self {
        Self { fills: false, ..Self::new(0, device) }
    }

    /// Whether parameters get no numbers of their own.
    pub fn is_outline(&self) -> bool {
        !self.fills
    }

    /// The device that parameters go to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A number drawn uniformly from `[low, high)`.
    pub fn draw_uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.rng.random::<f32>()
    }

    /// A number drawn from the standard normal distribution (Box–Muller).
    pub fn draw_normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        let angle = core::f64::consts::TAU * self.rng.random::<f64>();
        (radius * angle.cos()) as f32
    }

    /// A parameter filled by calling `f` once an element, in row-major order.
    pub fn from_fn<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut f: impl FnMut(&mut Self, usize) -> f32,
    ) -> Param<Tensor<D>> {
        if !self.fills {
            let zeros = move |device: &Device, grad: bool| {
                let zeros = Tensor::<D>::zeros([1; D], device).expand(shape);
                if grad { zeros.require_grad() } else { zeros }
            };
            return Param::uninitialized(ParamId::new(), zeros, self.device.clone(), true, Shape::from(shape));
        }
        let values = (0..shape.iter().product()).map(|i| f(self, i)).collect::<Vec<f32>>();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }

    /// A parameter of independent normal numbers with standard deviation `std`.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        self.from_fn(shape, |init, _| std * init.draw_normal())
    }

    /// A parameter of independent uniform numbers in `[-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        self.uniform_between(shape, -bound, bound)
    }

    /// A parameter of independent uniform numbers in `[low, high)`.
    pub fn uniform_between<const D: usize>(&mut self, shape: [usize; D], low: f32, high: f32) -> Param<Tensor<D>> {
        self.from_fn(shape, |init, _| init.draw_uniform(low, high))
    }

    /// A parameter that starts at one value.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.from_fn(shape, |_, _| value)
    }

    /// A linear map `[d_in, d_out]` with uniform weights in ±1/√d_in (and bias likewise, if it has one): PyTorch's
    /// default, which the reference implementations of most blocks keep.
    pub fn linear(&mut self, d_in: usize, d_out: usize, bias: bool) -> Linear {
        let bound = (d_in as f32).sqrt().recip();
        let weight = self.uniform([d_in, d_out], bound);
        let bias = bias.then(|| self.uniform([d_out], bound));
        Linear { weight, bias }
    }

    /// A linear map `[d_in, d_out]` without bias whose weights are normal with standard deviation `std`.
    pub fn linear_normal(&mut self, d_in: usize, d_out: usize, std: f32) -> Linear {
        Linear { weight: self.normal([d_in, d_out], std), bias: None }
    }
}
