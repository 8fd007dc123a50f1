"""The names that Java has for charsets, and the Python codecs that decode them.

The table is fixed (docs/protocol.md 1.2), because Python also has codecs that are not
charsets. All that matters about a body is whether it parses as base64 or JSON. A
charset without a codec in Python is therefore replaced by one that agrees with it on
those characters.
"""

from __future__ import annotations

import codecs
from typing import Final

# Java assumes big-endian if there is no byte order mark.
_MARKS: Final = {
    "utf_16": (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE),
    "utf_32": (codecs.BOM_UTF32_BE, codecs.BOM_UTF32_LE),
}


def codec_of(name: str) -> str | None:
    """Find Python's codec for a charset of Java, ignoring case, or return None."""
    return _CODECS.get(name.lower())


def decode(data: bytes, codec: str) -> str:
    """Decode *data* with a *codec* of the table, replacing invalid bytes."""
    marks = _MARKS.get(codec)
    if marks is not None and not data.startswith(marks):
        codec += "_be"
    return data.decode(codec, "replace")


_NAMES: Final = {
    "ascii": """
    1046 1098 1124 1129 1381 1383 29626c 33722 646 868 921 922 942 943 943c 948
    949 949c 964 970 ansi_x3.4-1968 ansi_x3.4-1986 ascii ascii7 big5-hkscs-2001
    big5-hkscs:unicode3.0 big5_hkscs_2001 big5_solaris big5hk-2001 big5hkscs-2001
    cns11643 cp-ar cp1046 cp1098 cp1124 cp1129 cp1381 cp1383 cp29626c cp33722
    cp367 cp868 cp921 cp922 cp942 cp943 cp943c cp948 cp949 cp949c cp964 cp970
    cpeuccn csascii cshalfwidthkatakana csibm868 csiso153gost1976874 csiso2022cn
    csiso2022jp csiso2022jp2 csjisencoding euc-jp-linux euc-tw euc_jp_linux
    euc_jp_solaris euc_tw eucjp-open euctw ibm-1046 ibm-1098 ibm-1124 ibm-1129
    ibm-1381 ibm-1383 ibm-29626c ibm-33722 ibm-33722_vascii_vpua ibm-5050 ibm-868
    ibm-921 ibm-922 ibm-942 ibm-943 ibm-943c ibm-948 ibm-949 ibm-949c ibm-964
    ibm-970 ibm-euccn ibm-eucjp ibm-euckr ibm-euctw ibm1046 ibm1098 ibm1124
    ibm1129 ibm1381 ibm1383 ibm29626c ibm33722 ibm367 ibm868 ibm921 ibm922 ibm942
    ibm943 ibm943c ibm948 ibm949 ibm949c ibm964 ibm970 ibmeuccn iscii iscii91
    iso-2022-cn iso-2022-cn-cns iso-2022-cn-gb iso-2022-jp iso-2022-jp-2
    iso-ir-153 iso-ir-6 iso2022cn iso2022cn_cns iso2022cn_gb iso2022jp iso2022jp2
    iso646-us iso_646.irv:1983 iso_646.irv:1991 jis jis0201 jis_encoding jis_x0201
    jisautodetect macarabic maccroatian machebrew macromania macthai macukraine
    ms-874 ms874 ms932-0213 ms932:2004 ms932_0213 ms950_hkscs ms950_hkscs_xp pck
    st_sev_358-88 us us-ascii windows-874 windows-932-0213 windows-932:2004
    x-big5-hkscs-2001 x-big5-solaris x-euc-jp-linux x-euc-tw x-eucjp-open
    x-ibm1046 x-ibm1098 x-ibm1124 x-ibm1129 x-ibm1381 x-ibm1383 x-ibm29626c
    x-ibm33722 x-ibm921 x-ibm922 x-ibm942 x-ibm943 x-ibm943c x-ibm948 x-ibm949
    x-ibm949c x-ibm964 x-ibm970 x-iscii91 x-iso-2022-cn-cns x-iso-2022-cn-gb
    x-jisautodetect x-macarabic x-maccroatian x-machebrew x-macromania x-macthai
    x-macukraine x-ms932_0213 x-ms950-hkscs x-ms950-hkscs-xp x-pck x-windows-874
    x0201
    """,
    "big5": """
    big5 csbig5
    """,
    "big5hkscs": """
    big5-hkscs big5_hkscs big5hk big5hkscs
    """,
    "cp037": """
    037 1047 1097 1112 285 838 cp037 cp1047 cp1097 cp1112 cp285 cp838 cpibm285
    cpibm37 cs-ebcdic-cp-ca cs-ebcdic-cp-nl cs-ebcdic-cp-us cs-ebcdic-cp-wt
    csibm037 csibm285 ebcdic-cp-ca ebcdic-cp-gb ebcdic-cp-nl ebcdic-cp-us
    ebcdic-cp-wt ebcdic-gb ibm-037 ibm-1047 ibm-1097 ibm-1112 ibm-285 ibm-37
    ibm-838 ibm-thai ibm037 ibm1047 ibm1097 ibm1112 ibm285 ibm838 x-ibm1097
    x-ibm1112
    """,
    "cp1006": """
    1006 cp1006 ibm-1006 ibm1006 x-ibm1006
    """,
    "cp1026": """
    1026 cp1026 ibm-1026 ibm1026
    """,
    "cp1140": """
    1140 1145 1146 ccsid01140 ccsid01145 ccsid01146 cp01140 cp01145 cp01146 cp1140
    cp1145 cp1146 ebcdic-es-284+euro ebcdic-gb-285+euro ebcdic-us-037+euro
    ibm-1140 ibm-1145 ibm-1146 ibm01140 ibm01145 ibm01146 ibm1140 ibm1145 ibm1146
    """,
    "cp1250": """
    cp1250 cp5346 windows-1250
    """,
    "cp1251": """
    ansi-1251 cp1251 cp5347 windows-1251
    """,
    "cp1252": """
    cp1252 cp5348 ibm-1252 ibm1252 windows-1252
    """,
    "cp1253": """
    cp1253 cp5349 windows-1253
    """,
    "cp1254": """
    cp1254 cp5350 windows-1254
    """,
    "cp1255": """
    cp1255 windows-1255
    """,
    "cp1256": """
    cp1256 windows-1256
    """,
    "cp1257": """
    cp1257 cp5353 windows-1257
    """,
    "cp1258": """
    cp1258 windows-1258
    """,
    "cp273": """
    1122 1141 1143 273 278 ccsid01141 ccsid01143 cp01141 cp01143 cp1122 cp1141
    cp1143 cp273 cp278 csibm278 ebcdic-cp-se ebcdic-de-273+euro ebcdic-fi-278+euro
    ebcdic-se-278+euro ebcdic-sv ibm-1122 ibm-1141 ibm-1143 ibm-273 ibm-278
    ibm01141 ibm01143 ibm1122 ibm1141 ibm1143 ibm273 ibm278 x-ibm1122
    """,
    "cp424": """
    1364 290 420 424 833 930 933 935 937 939 cp1364 cp290 cp420 cp424 cp833 cp930
    cp933 cp935 cp937 cp939 csibm290 csibm420 csibm424 ebcdic-cp-ar1 ebcdic-cp-he
    ebcdic-jp-kana ibm-1364 ibm-290 ibm-420 ibm-424 ibm-833 ibm-930 ibm-933
    ibm-935 ibm-937 ibm-939 ibm1364 ibm290 ibm420 ibm424 ibm833 ibm930 ibm933
    ibm935 ibm937 ibm939 x-ibm1364 x-ibm833 x-ibm930 x-ibm933 x-ibm935 x-ibm937
    x-ibm939
    """,
    "cp437": """
    437 cp437 cspc8codepage437 ibm-437 ibm437 windows-437
    """,
    "cp500": """
    1025 1123 1142 1144 1147 1148 1149 1166 277 280 284 297 500 870 871 918
    ccsid01142 ccsid01144 ccsid01147 ccsid01148 ccsid01149 cp01142 cp01144 cp01147
    cp01148 cp01149 cp1025 cp1123 cp1142 cp1144 cp1147 cp1148 cp1149 cp1166 cp277
    cp280 cp284 cp297 cp500 cp870 cp871 cp918 cpibm284 cpibm297 csibm284 csibm297
    csibm500 csibm870 csibm871 ebcdic-cp-ar2 ebcdic-cp-bh ebcdic-cp-ch
    ebcdic-cp-fr ebcdic-cp-is ebcdic-cp-roece ebcdic-cp-yu ebcdic-dk-277+euro
    ebcdic-fr-277+euro ebcdic-international-500+euro ebcdic-it-280+euro
    ebcdic-no-277+euro ebcdic-s-871+euro ibm-1025 ibm-1123 ibm-1142 ibm-1144
    ibm-1147 ibm-1148 ibm-1149 ibm-1166 ibm-277 ibm-280 ibm-284 ibm-297 ibm-500
    ibm-870 ibm-871 ibm-918 ibm01142 ibm01144 ibm01147 ibm01148 ibm01149 ibm1025
    ibm1123 ibm1142 ibm1144 ibm1147 ibm1148 ibm1149 ibm1166 ibm277 ibm280 ibm284
    ibm297 ibm500 ibm870 ibm871 ibm918 x-ibm1025 x-ibm1123 x-ibm1166
    """,
    "cp737": """
    737 cp737 ibm-737 ibm737 x-ibm737
    """,
    "cp775": """
    775 cp775 ibm-775 ibm775
    """,
    "cp850": """
    850 cp850 cspc850multilingual ibm-850 ibm850
    """,
    "cp852": """
    852 cp852 cspcp852 ibm-852 ibm852
    """,
    "cp855": """
    855 cp855 cspcp855 ibm-855 ibm855
    """,
    "cp856": """
    856 cp856 ibm-856 ibm856 x-ibm856
    """,
    "cp857": """
    857 cp857 csibm857 ibm-857 ibm857
    """,
    "cp858": """
    858 ccsid00858 cp00858 cp858 ibm-858 ibm00858 ibm858 pc-multilingual-850+euro
    """,
    "cp860": """
    860 cp860 csibm860 ibm-860 ibm860
    """,
    "cp861": """
    861 cp-is cp861 csibm861 ibm-861 ibm861
    """,
    "cp862": """
    862 cp862 csibm862 cspc862latinhebrew ibm-862 ibm862
    """,
    "cp863": """
    863 cp863 csibm863 ibm-863 ibm863
    """,
    "cp864": """
    864 cp864 csibm864 ibm-864 ibm864
    """,
    "cp865": """
    865 cp865 csibm865 ibm-865 ibm865
    """,
    "cp866": """
    866 cp866 csibm866 ibm-866 ibm866
    """,
    "cp869": """
    869 cp-gr cp869 csibm869 ibm-869 ibm869
    """,
    "cp874": """
    874 cp874 ibm-874 ibm874 x-ibm874
    """,
    "cp875": """
    875 cp875 ibm-875 ibm875 x-ibm875
    """,
    "cp932": """
    932 942c cp932 cp942c cswindows31j ibm-932 ibm-942c ibm932 ibm942c ms932
    windows-31j windows-932 x-ibm932 x-ibm942c
    """,
    "cp949": """
    ms949 ms_949 windows-949 windows949 x-windows-949
    """,
    "cp950": """
    950 cp950 ibm-950 ibm950 ms950 windows-950 x-ibm950 x-windows-950
    """,
    "euc_jp": """
    cseucpkdfmtjapanese euc-jp euc_jp eucjis eucjp
    extended_unix_code_packed_format_for_japanese x-euc-jp x-eucjp
    """,
    "euc_kr": """
    5601 cseuckr euc-kr euc_kr euckr ks_c_5601-1987 ksc5601 ksc5601-1987
    ksc5601_1987 ksc_5601
    """,
    "gb18030": """
    gb18030 gb18030-2022
    """,
    "gb2312": """
    euc-cn euc_cn euccn gb2312 gb2312-1980 gb2312-80 x-euc-cn
    """,
    "gbk": """
    cp936 gbk ms936 ms_936 windows-936 x-mswin-936
    """,
    "iso2022_jp": """
    cp50220 cp50221 ms50220 ms50221 windows-iso2022jp x-windows-50220
    x-windows-50221 x-windows-iso2022jp
    """,
    "iso2022_kr": """
    csiso2022kr iso-2022-kr iso2022kr
    """,
    "iso8859_11": """
    iso-8859-11 iso8859_11 x-iso-8859-11
    """,
    "iso8859_13": """
    8859_13 iso-8859-13 iso8859-13 iso8859_13 iso_8859-13
    """,
    "iso8859_15": """
    8859_15 923 cp923 csiso885915 csisolatin0 csisolatin9 ibm-923 ibm923
    iso-8859-15 iso8859-15 iso8859_15 iso8859_15_fdis iso_8859-15 l9 latin-9
    latin0 latin9
    """,
    "iso8859_16": """
    csiso885916 iso-8859-16 iso-ir-226 iso8859_16 iso_8859-16 iso_8859-16:2001 l10
    latin10
    """,
    "iso8859_2": """
    8859_2 912 cp912 csisolatin2 ibm-912 ibm912 iso-8859-2 iso-ir-101 iso8859-2
    iso8859_2 iso_8859-2 iso_8859-2:1987 l2 latin2
    """,
    "iso8859_3": """
    8859_3 913 cp913 csisolatin3 ibm-913 ibm913 iso-8859-3 iso-ir-109 iso8859-3
    iso8859_3 iso_8859-3 iso_8859-3:1988 l3 latin3
    """,
    "iso8859_4": """
    8859_4 914 cp914 csisolatin4 ibm-914 ibm914 iso-8859-4 iso-ir-110 iso8859-4
    iso8859_4 iso_8859-4 iso_8859-4:1988 l4 latin4
    """,
    "iso8859_5": """
    8859_5 915 cp915 csisolatincyrillic cyrillic ibm-915 ibm915 iso-8859-5
    iso-ir-144 iso8859-5 iso8859_5 iso_8859-5 iso_8859-5:1988
    """,
    "iso8859_6": """
    1089 8859_6 arabic asmo-708 cp1089 csisolatinarabic ecma-114 ibm-1089 ibm1089
    iso-8859-6 iso-ir-127 iso8859-6 iso8859_6 iso_8859-6 iso_8859-6:1987
    """,
    "iso8859_7": """
    813 8859_7 cp813 csisolatingreek ecma-118 elot_928 greek greek8 ibm-813 ibm813
    iso-8859-7 iso-ir-126 iso8859-7 iso8859_7 iso_8859-7 iso_8859-7:1987
    sun_eu_greek
    """,
    "iso8859_8": """
    8859_8 916 cp916 csisolatinhebrew hebrew ibm-916 ibm916 iso-8859-8 iso-ir-138
    iso8859-8 iso8859_8 iso_8859-8 iso_8859-8:1988
    """,
    "iso8859_9": """
    8859_9 920 cp920 csisolatin5 ibm-920 ibm920 iso-8859-9 iso-ir-148 iso8859-9
    iso8859_9 iso_8859-9 iso_8859-9:1989 l5 latin5
    """,
    "johab": """
    johab ksc5601-1992 ksc5601_1992 ms1361 x-johab
    """,
    "koi8_r": """
    cskoi8r koi8 koi8-r koi8_r
    """,
    "koi8_u": """
    koi8-u koi8_u
    """,
    "latin_1": """
    819 8859_1 cp819 csisolatin1 ibm-819 ibm819 iso-8859-1 iso-ir-100 iso8859-1
    iso8859_1 iso_8859-1 iso_8859-1:1987 iso_8859_1 l1 latin1
    """,
    "mac_cyrillic": """
    maccyrillic x-maccyrillic
    """,
    "mac_greek": """
    macgreek x-macgreek
    """,
    "mac_iceland": """
    maciceland x-maciceland
    """,
    "mac_latin2": """
    maccentraleurope x-maccentraleurope
    """,
    "mac_roman": """
    macroman x-macroman
    """,
    "mac_turkish": """
    macturkish x-macturkish
    """,
    "shift_jis": """
    csshiftjis ms_kanji shift-jis shift_jis sjis x-sjis
    """,
    "shift_jis_2004": """
    shift_jis:2004 shift_jis_0213:2004 sjis-0213 sjis:2004 sjis_0213
    sjis_0213:2004 x-sjis_0213
    """,
    "tis_620": """
    tis-620 tis620 tis620.2533
    """,
    "utf_16": """
    unicode unicodebig utf-16 utf16 utf_16
    """,
    "utf_16_be": """
    300 834 cp300 cp834 csiso159jisx02121990 csiso87jisx0208 ibm-300 ibm-834
    ibm300 ibm834 iso-10646-ucs-2 iso-ir-159 iso-ir-87 jis0208 jis0212
    jis_c6226-1983 jis_x0208-1983 jis_x0212-1990 macdingbat macsymbol
    unicodebigunmarked utf-16be utf_16be x-ibm300 x-ibm834 x-jis0208 x-macdingbat
    x-macsymbol x-utf-16be x0208 x0212
    """,
    "utf_16_le": """
    unicodelittle unicodelittleunmarked utf-16le utf_16le x-utf-16le
    x-utf-16le-bom
    """,
    "utf_32": """
    utf-32 utf32 utf_32
    """,
    "utf_32_be": """
    utf-32be utf-32be-bom utf_32be utf_32be_bom x-utf-32be x-utf-32be-bom
    """,
    "utf_32_le": """
    utf-32le utf-32le-bom utf_32le utf_32le_bom x-utf-32le x-utf-32le-bom
    """,
    "utf_8": """
    cesu-8 cesu8 cscesu-8 unicode-1-1-utf-8 utf-8 utf8
    """,
}

_CODECS: Final = {
    name: codec for codec, text in _NAMES.items() for name in text.split()
}
