export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 PATH=/usr/lib/llvm-22/bin:$HOME/.cargo/bin:$PATH
export CARGO_ENCODED_RUSTFLAGS="$(printf '%s\037%s\037%s\037%s\037%s' -Clinker=bpf-linker -Clink-arg=--btf -Cdebuginfo=2 -Ctarget-cpu=v3 '--cfg=bpf_target_arch="x86_64"')"
exec /usr/bin/cargo build --release --target bpfel-unknown-none -Z build-std=core "$@"
