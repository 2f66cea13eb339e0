"""Unpack a hostile root filesystem tarball from stdin into an empty directory, and nowhere else.

A program, run as `invocation.command` says inside a container that is already confined: uid 0 of an
own user namespace, DEST on an idmapped mount, and of the capabilities only CHOWN, DAC_OVERRIDE,
FOWNER, FSETID and SETFCAP.  It uses the standard library alone (and ``backports.zstd`` on a Python
older than 3.14), and imports all it needs before it reads the first byte of the archive.

    stream.py ---> reader.py (headers.py) ---> unpacker.py ---> tree.py
    decompressed   members, one by one         makes each,      its directory, by a descriptor
    bytes          with their metadata         within limits    from DEST down

The confinement is one wall, this program is the other.  Python's ``tarfile`` is not used.  Its
extraction filters were got round again and again (CVE-2024-12718, CVE-2025-4138, CVE-2025-4330,
CVE-2025-4517), because they judge a path as text and then hand the text to the kernel to resolve
once more.  Here no path of more than one component ever reaches the kernel: each directory is
opened from its parent's descriptor with O_NOFOLLOW (open(2), path_resolution(7)), so what was
checked is what is used.  And its reader takes a broken header for the end of the archive, reads
extension headers of any size into memory, and calls itself once for each of them (see also
CVE-2024-6232, CVE-2025-8194, CVE-2025-13462): to trust it would be to replace most of it.

The formats read are v7, ustar, pax and GNU's, with sparse files of all of GNU's versions, plain
or compressed with gzip, bzip2, xz or zstd.  Not done: OCI layers (a whiteout ``.wh.NAME`` is
unpacked as the plain file it is), device nodes (skipped and counted: a container gets a /dev of
its own), extended attributes other than ``security.capability`` and ``user.*``, multi-volume and
incremental archives.  Space is limited here; time and memory are for the caller to limit.

Success is one line of JSON on stdout and exit 0: ``entries`` counts the members unpacked,
``bytes`` the apparent size of the files.  Anything else is one line on stderr, and exit 3 if the
archive exceeds a limit, 1 otherwise; it leaves DEST half filled, which is the caller's to throw away.
"""
