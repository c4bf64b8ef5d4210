#!/bin/sh
# slim.sh VENV: take out of a Python environment what no lab, no check and no grading reads. What each item saves in the
# CPU image is said in docker/README.md. Bytecode stays: the student cannot write it, and every kernel would start slower.
set -eu

cd "$1"/lib/python3*/site-packages

# Headers and static libraries: for compiling against these packages, and the image has no compiler.
rm -rf torch/include torch/share pyarrow/include pyarrow/src numpy/_core/include
find . -name '*.a' -delete

# The packages' own tests. torch/bin holds C++ tests beside the one program that shared tensors need.
rm -rf torch/test
[ ! -d torch/bin ] || find torch/bin -type f ! -name torch_shm_manager -delete
for package in pandas pyarrow sympy networkx numpy dask distributed matplotlib mpl_toolkits jupyterhub notebook_shim psutil; do
    [ ! -d $package ] || find $package -type d -name tests -prune -exec rm -rf {} +
done
rm -rf tornado/test

# C that Cython made, compiled beside it.
for package in fontTools debugpy; do
    [ ! -d $package ] || find $package -name '*.c' -delete
done

# Arrow's clients for Flight servers and for S3. pyarrow says that they are missing when asked for them, and only then.
rm -f pyarrow/*_flight.*so* pyarrow/libarrow_s3.so* pyarrow/_s3fs.*.so

# What the pages of a hub show. The students' servers take it from the hub; they want to see the folder.
pages=../../../share/jupyterhub/static/components
[ ! -d $pages ] || find $pages -mindepth 1 -delete

# bitsandbytes brings a library for each CUDA, ROCm and XPU; torch uses the one of its own CUDA, the CPU build none.
if [ -d bitsandbytes ]; then
    cuda=$(sed -n "s/^cuda[^=]*= *'\([0-9]*\)\.\([0-9]*\)'.*/\1\2/p" torch/version.py)
    find bitsandbytes -maxdepth 1 -name 'libbitsandbytes_*.so' ! -name libbitsandbytes_cpu.so \
        ! -name "libbitsandbytes_cuda${cuda:-none}.so" -delete
fi

# Source maps of JupyterLab's JavaScript: for those who debug it.
find ../../../share/jupyter jupyterlab -name '*.js.map' -delete 2>/dev/null || true
