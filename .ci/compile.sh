# How the C programs of tests/ are compiled; for `source`, with $python set.
OPENBLAS=$("$python" -c 'import scipy_openblas32; print(scipy_openblas32.get_lib_dir())')/libscipy_openblas.so
FLAGS=(-std=c11 -D_GNU_SOURCE -fno-tree-vectorize -ffp-contract=off -Wall -Wextra -Werror
       -pthread -Icsrc "-DOPENBLAS_FILE=\"$OPENBLAS\"" '-DOPENBLAS_PREFIX="scipy_"')
ADDRESS_SANITIZER=(-fsanitize=address,undefined -fno-sanitize-recover=undefined -g)
CORE=(csrc/core/*.c)
WRAP=(-Wl,--wrap=ef_allocate,--wrap=ef_new_mutex,--wrap=ef_open_library,--wrap=ef_find_function
      -rdynamic)

# compile PROGRAM TEST [FLAG...]: with the whole core, which loads OpenBLAS, for this machine.
compile() {
    local program=$1 test=$2 wrap=()
    shift 2
    [ "$test" = faults_test.c ] && wrap=("${WRAP[@]}")
    [ "$test" = trials_test.c ] && wrap=(-Wl,--wrap=ef_nanoseconds)
    gcc "${FLAGS[@]}" -O3 "$@" "${wrap[@]}" "tests/core/$test" "${CORE[@]}" csrc/kernels/*.c \
        -ldl -lm -o "$program"
}

# compile_for COMPILER PROGRAM TEST [FLAG...]: with the kernels only, static, for an emulator.
compile_for() {
    local compiler=$1 program=$2 test=$3
    shift 3
    "$compiler" "${FLAGS[@]}" -O3 -static "$@" "tests/core/$test" csrc/core/cpu.c csrc/kernels/*.c \
        -lm -o "$program"
}
