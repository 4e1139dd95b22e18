// The function of bcryptprimitives.dll that Rust's standard library needs, for versions of Wine without that file.
// Built and used by scripts/test-platforms alone.
#include <windows.h>

BOOLEAN WINAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length) {
    return SystemFunction036(buffer, (ULONG)length);
}
