/* Older Wines have no bcryptprimitives.dll, whose one function Rust's standard library imports: without it every program
   ends before its first line, and says nothing. This is for tests under Wine alone. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
    return SystemFunction036(buffer, (ULONG)length);
}
