//! The known answers in `tests/data/noise_vectors.txt`, for the naive forms and for every path of this machine.

use es_core::kernels::{Bf16, Dtype, F16, F32, Kernels, Live, LiveType, Path, Update, naive};
use es_core::noise::{NoiseAddress, normals, philox4x32};

const VECTORS: &str = include_str!("../../../tests/data/noise_vectors.txt");

/// Kind, groups of inputs, outputs.
type Vector = (&'static str, Vec<Vec<&'static str>>, Vec<&'static str>);

fn vectors(kind: &str) -> Vec<Vector> {
    let lines = VECTORS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (inputs, outputs) = line.split_once(" = ").expect("an equals sign");
        let (kind, inputs) = inputs.split_once(' ').expect("a kind");
        let groups = inputs
            .split(" : ")
            .map(|group| group.split(' ').collect())
            .collect();
        (kind, groups, outputs.split(' ').collect())
    });
    let found: Vec<Vector> = parsed.filter(|vector: &Vector| vector.0 == kind).collect();
    assert!(found.len() > 1, "no vectors for {kind}");
    found
}

fn hex(words: &[&str]) -> Vec<u32> {
    words
        .iter()
        .map(|word| u32::from_str_radix(word, 16).unwrap())
        .collect()
}

fn floats(words: &[&str]) -> Vec<f32> {
    hex(words).into_iter().map(f32::from_bits).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn decimal(word: &str) -> u64 {
    word.parse().unwrap()
}

fn narrow(word: &str) -> u32 {
    word.parse().unwrap()
}

fn address(words: &[&str]) -> NoiseAddress {
    NoiseAddress {
        run_seed: decimal(words[0]),
        iteration: narrow(words[1]),
        pair: narrow(words[2]),
        tensor: narrow(words[3]),
        element: decimal(words[4]),
    }
}

fn all_paths() -> Vec<Kernels> {
    Path::ALL
        .into_iter()
        .filter_map(|path| Kernels::on(path).ok())
        .collect()
}

#[test]
fn philox_words() {
    for (_, inputs, words) in vectors("philox") {
        let (counter, key) = (hex(&inputs[0]), hex(&inputs[1]));
        let got = philox4x32(counter.try_into().unwrap(), key.try_into().unwrap());
        assert_eq!(got.to_vec(), hex(&words));
    }
}

#[test]
fn normals_of_words() {
    for (_, inputs, values) in vectors("normal") {
        assert_eq!(
            bits(&normals(hex(&inputs[0]).try_into().unwrap())),
            hex(&values),
            "{inputs:?}"
        );
    }
}

#[test]
fn noise_at_addresses() {
    for (_, inputs, values) in vectors("noise") {
        let at = address(&inputs[0]);
        let mut out = vec![0.0; values.len()];
        naive::fill(at, &mut out).unwrap();
        assert_eq!(bits(&out), hex(&values), "{at:?}");
        for kernels in all_paths() {
            out.fill(0.0);
            kernels.fill(at, &mut out).unwrap();
            assert_eq!(bits(&out), hex(&values), "{at:?} {kernels:?}");
        }
    }
}

#[test]
fn rounded_values() {
    for (_, inputs, live) in vectors("round") {
        let (dtype, master) = (Dtype::from_name(inputs[0][0]).unwrap(), floats(&inputs[1]));
        for kernels in all_paths() {
            let mut out = vec![0; master.len()];
            let into = if dtype == Dtype::Bf16 {
                Live::Bf16(&mut out)
            } else {
                Live::F16(&mut out)
            };
            kernels.round_into(into, &master).unwrap();
            let got: Vec<u32> = out.into_iter().map(u32::from).collect();
            assert_eq!(got, hex(&live), "{dtype:?} {kernels:?}");
        }
    }
}

fn check_perturb<L: LiveType>(
    inputs: &[Vec<&str>],
    live: &[u32],
    wrap: impl Fn(&mut [L::Bits]) -> Live<'_>,
    widen: impl Fn(L::Bits) -> u32,
) where
    L::Bits: Default,
{
    let (scale, at) = (floats(&inputs[0][1..2])[0], address(&inputs[0][2..]));
    let master = floats(&inputs[1]);
    let mut out = vec![L::Bits::default(); master.len()];
    naive::perturb_into::<L>(&mut out, &master, scale, at).unwrap();
    assert_eq!(
        out.iter().map(|value| widen(*value)).collect::<Vec<_>>(),
        live
    );
    for kernels in all_paths() {
        out.fill(L::Bits::default());
        kernels
            .perturb_into(wrap(&mut out), &master, scale, at)
            .unwrap();
        assert_eq!(
            out.iter().map(|value| widen(*value)).collect::<Vec<_>>(),
            live,
            "{kernels:?}"
        );
    }
}

#[test]
fn perturbed_weights() {
    for (_, inputs, live) in vectors("perturb") {
        let live = hex(&live);
        match Dtype::from_name(inputs[0][0]).unwrap() {
            Dtype::F32 => check_perturb::<F32>(&inputs, &live, |out| Live::F32(out), f32::to_bits),
            Dtype::Bf16 => check_perturb::<Bf16>(&inputs, &live, |out| Live::Bf16(out), u32::from),
            Dtype::F16 => check_perturb::<F16>(&inputs, &live, |out| Live::F16(out), u32::from),
        }
    }
}

#[test]
fn accumulated_masters() {
    for (_, inputs, moved) in vectors("accumulate") {
        let words = &inputs[0];
        let (pairs, coefficients) = (
            inputs[1]
                .iter()
                .map(|word| narrow(word))
                .collect::<Vec<_>>(),
            floats(&inputs[2]),
        );
        let update = Update {
            place: address(&[words[0], words[1], "0", words[2], words[3]]).into(),
            pairs: &pairs,
            coefficients: &coefficients,
            dtype: Dtype::Bf16,
        };
        let mut master = floats(&inputs[3]);
        naive::accumulate(&mut master, update).unwrap();
        assert_eq!(bits(&master), hex(&moved));
        for kernels in all_paths() {
            master = floats(&inputs[3]);
            kernels.accumulate(&mut master, update).unwrap();
            assert_eq!(bits(&master), hex(&moved), "{kernels:?}");
        }
    }
}

#[test]
fn digests() {
    for (_, inputs, digest) in vectors("digest") {
        let (tensor, element) = (narrow(inputs[0][0]), decimal(inputs[0][1]));
        let (master, digest) = (
            floats(&inputs[1]),
            u64::from_str_radix(digest[0], 16).unwrap(),
        );
        assert_eq!(naive::digest(&master, tensor, element), digest);
        for kernels in all_paths() {
            assert_eq!(
                kernels
                    .digest(
                        &master,
                        NoiseAddress {
                            tensor,
                            element,
                            ..NoiseAddress::default()
                        }
                    )
                    .unwrap(),
                digest,
                "{kernels:?}"
            );
        }
    }
}
