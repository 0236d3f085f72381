//! The known answers in `tests/data/noise_vectors.txt`, for the naive forms and for every path of this machine.

use es_core::kernels::{
    At, Bf16, Dtype, F16, F32, Kernels, Live, LowRank, Path, Position, Terms, naive,
};
use es_core::noise::{Kind, NoiseAddress, normals, philox4x32};

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

/// The words of an update's address, of which the pairs are apart.
fn address_of_update(words: &[&str]) -> NoiseAddress {
    address(&[words[0], words[1], "0", words[2], "0"])
}

/// Words "element columns stride".
fn rows(address: NoiseAddress, words: &[&str]) -> Position {
    Position {
        address: NoiseAddress {
            element: decimal(words[0]),
            ..address
        },
        columns: decimal(words[1]),
        stride: decimal(words[2]),
    }
}

/// Words "rank row column rows columns".
fn block(address: NoiseAddress, words: &[&str]) -> LowRank {
    let size = |word: &str| usize::try_from(decimal(word)).unwrap();
    LowRank {
        address,
        rank: size(words[0]),
        first: [decimal(words[1]), decimal(words[2])],
        shape: [size(words[3]), size(words[4])],
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

fn check_fill(kind: Kind, at: NoiseAddress, expected: &[u32]) {
    let mut out = vec![0.0; expected.len()];
    naive::fill(kind, at, &mut out).unwrap();
    assert_eq!(bits(&out), expected, "{kind:?} {at:?}");
    for kernels in all_paths() {
        out.fill(0.0);
        kernels.fill(kind, at, &mut out).unwrap();
        assert_eq!(bits(&out), expected, "{kind:?} {at:?} {kernels:?}");
    }
}

#[test]
fn noise_at_addresses() {
    for (_, inputs, values) in vectors("noise") {
        check_fill(Kind::Dense, address(&inputs[0]), &hex(&values));
    }
}

#[test]
fn factors() {
    for (_, inputs, values) in vectors("factor") {
        let kind = match inputs[0][0] {
            "low_rank_a" => Kind::LowRankA,
            _ => Kind::LowRankB,
        };
        check_fill(kind, address(&inputs[0][1..]), &hex(&values));
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
            kernels.round(into, &master).unwrap();
            let got: Vec<u32> = out.into_iter().map(u32::from).collect();
            assert_eq!(got, hex(&live), "{dtype:?} {kernels:?}");
        }
    }
}

/// The naive form and all paths write `live`; `None` is the naive form.
fn check_live(dtype: &str, live: &[&str], write: impl Fn(Option<Kernels>, Live<'_>)) {
    let (expected, ways) = (hex(live), all_paths().into_iter().map(Some).chain([None]));
    for way in ways {
        let (mut long, mut short) = (vec![0.0; live.len()], vec![0_u16; live.len()]);
        let got: Vec<u32> = match Dtype::from_name(dtype).unwrap() {
            Dtype::F32 => {
                write(way, Live::F32(&mut long));
                bits(&long)
            }
            Dtype::Bf16 => {
                write(way, Live::Bf16(&mut short));
                short.into_iter().map(u32::from).collect()
            }
            Dtype::F16 => {
                write(way, Live::F16(&mut short));
                short.into_iter().map(u32::from).collect()
            }
        };
        assert_eq!(got, expected, "{dtype} {way:?}");
    }
}

fn check_perturb(dtype: &str, scale: &str, at: impl Into<At>, master: &[f32], live: &[&str]) {
    let (scale, at) = (floats(&[scale])[0], at.into());
    check_live(dtype, live, |way, live| {
        perturb(way, live, master, scale, at);
    });
}

fn perturb(way: Option<Kernels>, live: Live<'_>, master: &[f32], scale: f32, at: At) {
    match (way, live) {
        (Some(kernels), live) => drop(kernels.perturb(live, master, scale, at).unwrap()),
        (None, Live::F32(live)) => {
            naive::perturb::<F32>(live, master, scale, at).unwrap();
        }
        (None, Live::Bf16(live)) => {
            naive::perturb::<Bf16>(live, master, scale, at).unwrap();
        }
        (None, Live::F16(live)) => {
            naive::perturb::<F16>(live, master, scale, at).unwrap();
        }
    }
}

#[test]
fn perturbed_weights() {
    for (_, inputs, live) in vectors("perturb") {
        let (words, master) = (&inputs[0], floats(&inputs[1]));
        check_perturb(words[0], words[1], address(&words[2..]), &master, &live);
    }
}

#[test]
fn perturbed_shards() {
    for (_, inputs, live) in vectors("shard_perturb") {
        let (words, master) = (&inputs[0], floats(&inputs[1]));
        let position = rows(address(&words[2..]), &words[6..]);
        check_perturb(words[0], words[1], position, &master, &live);
    }
}

#[test]
fn perturbed_blocks() {
    for (_, inputs, live) in vectors("low_rank_perturb") {
        let (words, master) = (&inputs[0], floats(&inputs[1]));
        let at = address(&[words[2], words[3], words[4], words[5], "0"]);
        check_perturb(words[0], words[1], block(at, &words[6..]), &master, &live);
    }
}

/// Pairs, coefficients, master: the groups after the address.
fn members(inputs: &[Vec<&str>]) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let pairs = inputs[1].iter().map(|word| narrow(word)).collect();
    (pairs, floats(&inputs[2]), floats(&inputs[3]))
}

fn check_accumulate(at: impl Into<At>, inputs: &[Vec<&str>], moved: &[&str]) {
    let (pairs, coefficients, before) = members(inputs);
    let at = at.into();
    let terms = Terms {
        pairs: &pairs,
        coefficients: &coefficients,
        dtype: Dtype::Bf16,
    };
    let mut master = before.clone();
    naive::accumulate(&mut master, at, terms).unwrap();
    assert_eq!(bits(&master), hex(moved));
    for kernels in all_paths() {
        master.clone_from(&before);
        kernels.accumulate(&mut master, at, terms).unwrap();
        assert_eq!(bits(&master), hex(moved), "{kernels:?}");
    }
}

#[test]
fn accumulated_masters() {
    for (_, inputs, moved) in vectors("accumulate") {
        let at = address_of_update(&inputs[0]);
        let element = decimal(inputs[0][3]);
        check_accumulate(NoiseAddress { element, ..at }, &inputs, &moved);
    }
}

#[test]
fn accumulated_shards() {
    for (_, inputs, moved) in vectors("shard_accumulate") {
        let position = rows(address_of_update(&inputs[0]), &inputs[0][3..]);
        check_accumulate(position, &inputs, &moved);
    }
}

#[test]
fn accumulated_blocks() {
    for (_, inputs, moved) in vectors("low_rank_accumulate") {
        let matrix = block(address_of_update(&inputs[0]), &inputs[0][3..]);
        check_accumulate(matrix, &inputs, &moved);
    }
}

fn check_digest(position: Position, master: &[&str], digest: &str) {
    let (master, digest) = (floats(master), u64::from_str_radix(digest, 16).unwrap());
    assert_eq!(naive::digest(&master, position), digest);
    for kernels in all_paths() {
        let got = kernels.digest(&master, position).unwrap();
        assert_eq!(got, digest, "{kernels:?}");
    }
}

fn address_of_digest(tensor: &str, element: &str) -> NoiseAddress {
    NoiseAddress {
        tensor: narrow(tensor),
        element: decimal(element),
        ..NoiseAddress::default()
    }
}

#[test]
fn digests() {
    for (_, inputs, digest) in vectors("digest") {
        let at = address_of_digest(inputs[0][0], inputs[0][1]);
        check_digest(at.into(), &inputs[1], digest[0]);
    }
}

#[test]
fn digests_of_shards() {
    for (_, inputs, digest) in vectors("shard_digest") {
        let at = address_of_digest(inputs[0][0], inputs[0][1]);
        check_digest(rows(at, &inputs[0][1..]), &inputs[1], digest[0]);
    }
}

/// CRC-32 of the words, little-endian, as the file writes it.
fn crc32<W: Copy, const N: usize>(words: &[W], bytes: impl Fn(W) -> [u8; N]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| bytes(*word)).collect();
    format!("{:08x}", crc32fast::hash(&bytes))
}

fn crc32_of_floats(values: &[f32]) -> String {
    crc32(values, f32::to_le_bytes)
}

/// `count` masters of the long runs.
fn long_master(count: usize) -> Vec<f32> {
    let mut master = vec![0.0; count];
    let address = NoiseAddress {
        run_seed: 10,
        ..NoiseAddress::default()
    };
    naive::fill(Kind::Dense, address, &mut master).unwrap();
    for value in &mut master {
        *value *= 0.02;
    }
    master
}

/// The naive form and every path.
fn all_ways() -> impl Iterator<Item = Option<Kernels>> {
    all_paths().into_iter().map(Some).chain([None])
}

#[test]
fn long_noise() {
    for (_, inputs, crc) in vectors("long_noise") {
        let words = &inputs[0];
        let kind = match words[1] {
            "dense" => Kind::Dense,
            "low_rank_a" => Kind::LowRankA,
            _ => Kind::LowRankB,
        };
        let at = address(&words[2..]);
        for way in all_ways() {
            let mut out = vec![0.0; words[0].parse().unwrap()];
            match way {
                Some(kernels) => kernels.fill(kind, at, &mut out).unwrap(),
                None => naive::fill(kind, at, &mut out).unwrap(),
            }
            assert_eq!(crc32_of_floats(&out), crc[0], "{inputs:?} {way:?}");
        }
    }
}

#[test]
fn long_perturbed_weights() {
    for (_, inputs, crc) in vectors("long_perturb") {
        let words = &inputs[0];
        let master = long_master(words[0].parse().unwrap());
        let (scale, at) = (floats(&words[2..3])[0], address(&words[3..]));
        for way in all_ways() {
            let (mut long, mut short) = (vec![0.0; master.len()], vec![0_u16; master.len()]);
            let dtype = Dtype::from_name(words[1]).unwrap();
            let live = match dtype {
                Dtype::F32 => Live::F32(&mut long),
                Dtype::Bf16 => Live::Bf16(&mut short),
                Dtype::F16 => Live::F16(&mut short),
            };
            perturb(way, live, &master, scale, at.into());
            let got = match dtype {
                Dtype::F32 => crc32_of_floats(&long),
                _ => crc32(&short, u16::to_le_bytes),
            };
            assert_eq!(got, crc[0], "{inputs:?} {way:?}");
        }
    }
}

#[test]
fn long_accumulated_masters() {
    for (_, inputs, crc) in vectors("long_accumulate") {
        let words = &inputs[0];
        let before = long_master(words[0].parse().unwrap());
        let pairs: Vec<u32> = inputs[1].iter().map(|word| narrow(word)).collect();
        let at = address_of_update(&words[1..]);
        let at = NoiseAddress {
            element: decimal(words[4]),
            ..at
        };
        let terms = Terms {
            pairs: &pairs,
            coefficients: &floats(&inputs[2]),
            dtype: Dtype::Bf16,
        };
        for way in all_ways() {
            let mut master = before.clone();
            match way {
                Some(kernels) => drop(kernels.accumulate(&mut master, at, terms).unwrap()),
                None => naive::accumulate(&mut master, at, terms).unwrap(),
            }
            assert_eq!(crc32_of_floats(&master), crc[0], "{inputs:?} {way:?}");
        }
    }
}
