/* A stand-in of Windows' virtdisk.dll for tests: a disk is a file that holds its size, and what follows was deleted. The forms of calls and parameters are
   those of MinGW's headers. */
#include <initguid.h>
#include <windows.h>
#include <virtdisk.h>

/* The header takes them for another library's. */
#pragma GCC diagnostic ignored "-Wattributes"

static int is_vhdx(const VIRTUAL_STORAGE_TYPE *sort)
{
    return sort->DeviceId == VIRTUAL_STORAGE_TYPE_DEVICE_VHDX &&
           IsEqualGUID(&sort->VendorId, &VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT);
}

static DWORD put(HANDLE file, ULONGLONG size)
{
    DWORD written;
    SetFilePointer(file, 0, NULL, FILE_BEGIN);
    return WriteFile(file, &size, sizeof size, &written, NULL) ? 0 : GetLastError();
}

static ULONGLONG size_of(HANDLE file)
{
    DWORD read;
    ULONGLONG size = 0;
    SetFilePointer(file, 0, NULL, FILE_BEGIN);
    ReadFile(file, &size, sizeof size, &read, NULL);
    return size;
}

DWORD WINAPI CreateVirtualDisk(PVIRTUAL_STORAGE_TYPE sort, PCWSTR path, VIRTUAL_DISK_ACCESS_MASK access,
                               PSECURITY_DESCRIPTOR rule, CREATE_VIRTUAL_DISK_FLAG flags, ULONG more,
                               PCREATE_VIRTUAL_DISK_PARAMETERS parameters, LPOVERLAPPED overlapped, PHANDLE handle)
{
    /* With the second version of parameters no access is to be asked for. */
    if (!is_vhdx(sort) || access || rule || flags || more || overlapped ||
        parameters->Version != CREATE_VIRTUAL_DISK_VERSION_2 || parameters->Version2.SectorSizeInBytes != 512 ||
        parameters->Version2.MaximumSize % 512 || parameters->Version2.BlockSizeInBytes != 1 << 20)
        return ERROR_INVALID_PARAMETER;
    *handle = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    return *handle == INVALID_HANDLE_VALUE ? GetLastError() : put(*handle, parameters->Version2.MaximumSize);
}

DWORD WINAPI OpenVirtualDisk(PVIRTUAL_STORAGE_TYPE sort, PCWSTR path, VIRTUAL_DISK_ACCESS_MASK access,
                             OPEN_VIRTUAL_DISK_FLAG flags, POPEN_VIRTUAL_DISK_PARAMETERS parameters, PHANDLE handle)
{
    if (!is_vhdx(sort) || access || flags || parameters->Version != OPEN_VIRTUAL_DISK_VERSION_2 ||
        parameters->Version2.ReadOnly || parameters->Version2.GetInfoOnly)
        return ERROR_INVALID_PARAMETER;
    *handle = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
    return *handle == INVALID_HANDLE_VALUE ? GetLastError() : 0;
}

DWORD WINAPI GetVirtualDiskInformation(HANDLE disk, PULONG length, PGET_VIRTUAL_DISK_INFO info, PULONG used)
{
    (void)used;
    if (info->Version != GET_VIRTUAL_DISK_INFO_SIZE || *length < sizeof *info)
        return ERROR_INVALID_PARAMETER;
    info->Size.VirtualSize = size_of(disk);
    return 0;
}

DWORD WINAPI ExpandVirtualDisk(HANDLE disk, EXPAND_VIRTUAL_DISK_FLAG flags, PEXPAND_VIRTUAL_DISK_PARAMETERS parameters,
                               LPOVERLAPPED overlapped)
{
    if (flags || overlapped || parameters->Version != EXPAND_VIRTUAL_DISK_VERSION_1 ||
        parameters->Version1.NewSize <= size_of(disk))
        return ERROR_INVALID_PARAMETER;
    return put(disk, parameters->Version1.NewSize);
}

DWORD WINAPI CompactVirtualDisk(HANDLE disk, COMPACT_VIRTUAL_DISK_FLAG flags, PCOMPACT_VIRTUAL_DISK_PARAMETERS parameters,
                                LPOVERLAPPED overlapped)
{
    /* COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN, which the header has not. */
    if (flags != 1 || overlapped || parameters->Version != COMPACT_VIRTUAL_DISK_VERSION_1)
        return ERROR_INVALID_PARAMETER;
    SetFilePointer(disk, sizeof(ULONGLONG), NULL, FILE_BEGIN);
    return SetEndOfFile(disk) ? 0 : GetLastError();
}
