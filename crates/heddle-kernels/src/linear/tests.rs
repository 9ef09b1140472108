use burn::module::Param;
use burn::tensor::{Device, TensorData};

use super::*;
use crate::testing::{Random, VALUES, assert_near, devices, numbers, on_threads};

/// Rows and the sizes of a map: below, at and above a vector, a group of rows, and a task's columns.
const SIZES: [[usize; 3]; 8] =
    [[1, 1, 1], [1, 7, 3], [1, 16, 130], [2, 33, 9], [4, 40, 257], [1, 256, 1024], [3, 19, 20_000], [1, 300, 513]];

/// `x`, weights and bias.
fn sample([rows, k, n]: [usize; 3]) -> [Vec<f32>; 3] {
    let mut random = Random::new((rows + k + n) as u64);
    [rows * k, k * n, n].map(|count| random.floats(count, -1.0, 1.0))
}

fn by_loops([_, k, n]: [usize; 3], [x, weight, bias]: &[Vec<f32>; 3], layout: Layout) -> Vec<f64> {
    let at = |i: usize, j: usize| match layout {
        Layout::ByInput => weight[i * n + j],
        Layout::ByOutput => weight[j * k + i],
    };
    let of = |row: &[f32], j: usize| {
        let sum: f64 = row.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(at(i, j))).sum();
        sum + if layout == Layout::ByInput { f64::from(bias[j]) } else { 0.0 }
    };
    x.chunks(k).flat_map(|row| (0..n).map(move |j| of(row, j)).collect::<Vec<_>>()).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

#[test]
fn few_rows_are_multiplied_as_the_formula_says() {
    for sizes @ [rows, k, n] in SIZES {
        let sample = sample(sizes);
        let [x, weight, bias] = &sample;
        for device in devices() {
            let map = Linear {
                weight: Param::from_tensor(tensor(weight, [k, n], &device)),
                bias: Some(Param::from_tensor(tensor(bias, [n], &device))),
            };
            let truth = [by_loops(sizes, &sample, Layout::ByInput)];
            let x3 = || tensor(x, [rows, 1, k], &device);
            assert_near("definition", &[numbers(linear_by_definition(x3(), &map))], &truth, VALUES);
            for level in Level::supported() {
                let y = level.force(|| linear(x3(), &map));
                assert_eq!(y.dims(), [rows, 1, n]);
                assert_near(&format!("linear {sizes:?}"), &[numbers(y)], &truth, VALUES);
            }
            let truth = [by_loops(sizes, &sample, Layout::ByOutput)];
            let embedding = || tensor(weight, [n, k], &device);
            let x2 = || tensor(x, [rows, k], &device);
            assert_near("definition", &[numbers(unembed_by_definition(x2(), embedding()))], &truth, VALUES);
            for level in Level::supported() {
                let y = level.force(|| unembed(x2(), embedding()));
                assert_near(&format!("unembed {sizes:?}"), &[numbers(y)], &truth, VALUES);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let sizes @ [rows, k, n] = [2, 300, 9000];
    let [x, weight, bias] = sample(sizes);
    for layout in [Layout::ByInput, Layout::ByOutput] {
        let run = || cpu::forward(Dims { rows, k, n, layout }, [&x, &weight], Some(&bias), Level::current());
        assert_eq!(on_threads(1, run), on_threads(3, run));
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let sizes @ [rows, k, n] = [4, 100, 700];
    let [x, weight, bias] = sample(sizes);
    for layout in [Layout::ByInput, Layout::ByOutput] {
        let run = |rows: usize, x: &[f32]| {
            cpu::forward(Dims { rows, k, n, layout }, [x, &weight], Some(&bias), Level::current())
        };
        let together = run(rows, &x);
        for (x, y) in x.chunks(k).zip(together.chunks(n)) {
            assert_eq!(run(1, x), y);
        }
    }
}

#[test]
fn gradients_go_by_the_definition() {
    let device = Device::flex().autodiff();
    let [x, weight, _] = sample([2, 5, 3]);
    let map = Linear { weight: Param::from_tensor(tensor(&weight, [5, 3], &device)), bias: None };
    let x = tensor(&x, [2, 5], &device).require_grad();
    let gradients = linear(x.clone(), &map).sum().backward();
    let sums: Vec<f32> = weight.chunks(3).map(|row| row.iter().sum()).collect();
    let gradient = numbers(x.grad(&gradients).expect("x has a gradient"));
    assert!(gradient.iter().zip(sums.iter().cycle()).all(|(a, b)| (a - b).abs() < 1e-6));
    assert!(map.weight.val().grad(&gradients).is_some());
}

#[test]
#[should_panic(expected = "linear: rows of 4 numbers for a map that reads 5")]
fn rows_of_another_length_are_refused() {
    let device = Device::flex();
    let map = Linear { weight: Param::from_tensor(Tensor::zeros([5, 3], &device)), bias: None };
    linear(Tensor::<2>::zeros([1, 4], &device), &map);
}
