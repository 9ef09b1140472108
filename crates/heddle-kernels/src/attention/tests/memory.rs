//! How much memory an attention takes at its peak, which the system counts for a whole process.

use std::process::Command;

use super::*;

/// Of inputs, outputs and gradients together, what tiles and Burn may add.
const SHARE: f64 = 1.3;

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// Set in the process that holds nothing but the attention.
const ALONE: &str = "HEDDLE_TEST_ALONE";

#[test]
#[cfg(target_os = "linux")]
fn a_long_sequence_takes_little_more_memory_than_its_tensors() {
    if std::env::var_os(ALONE).is_some() {
        return measure();
    }
    let tests = std::env::current_exe().expect("the tests' own path");
    let name = "attention::tests::memory::a_long_sequence_takes_little_more_memory_than_its_tensors";
    let output = Command::new(tests).args(["--exact", name]).env(ALONE, "1").output().expect("the tests start");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn measure() {
    let sizes @ [b, h, g, l, m, p] = [1, 4, 1, 32768, 32768, 32];
    let dropout = Some(AttentionDropout { chance: 0.1, seed: 1 });
    let case = Case::causal(sizes).with(|rule| (rule.window, rule.dropout) = (Some(256), dropout));
    let device = Device::flex().autodiff();
    let pass = |length: usize| {
        let [q, k, v] = [(h, l), (g, m), (g, m)].map(|(heads, all)| {
            Tensor::<4>::random([b, heads, length.min(all), p], burn::tensor::Distribution::Default, &device)
                .require_grad()
        });
        let input = AttentionInput { q: q.clone(), k: k.clone(), v: v.clone(), slopes: None };
        let o = attention(input, case.rule.clone());
        let gradients = o.backward();
        [q, k, v].map(|x| x.grad(&gradients).expect("a gradient").sum().into_scalar::<f32>().is_finite())
    };
    // Threads, and whatever else is there only once.
    pass(256);
    let before = peak();
    assert_eq!(pass(l), [true; 3]);
    // Twice queries and outputs, and keys and values: themselves and their gradients.
    let tensors = size_of::<f32>() * b * p * 2 * (2 * h * l + 2 * g * m);
    let taken = (peak() - before) as f64 / tensors as f64;
    assert!(taken <= SHARE, "{taken:.2} times the memory of the tensors");
}
